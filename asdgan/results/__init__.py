"""What scores are worth, kept on disk: the ledger of results, metrics and intervals."""
