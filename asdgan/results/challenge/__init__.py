"""The challenge's official scores, ground-truth lists and score files, year by year."""
