"""Settings and data of one machine type to weights, scores and rows."""
