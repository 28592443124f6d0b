"""One published detector each: network, losses, score."""
