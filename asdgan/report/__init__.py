"""Results read by people: leaderboard, significance, selection, published tables."""
