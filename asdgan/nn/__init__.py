"""Blocks that detectors are made of; layers and optimiser that may carry many lanes."""
