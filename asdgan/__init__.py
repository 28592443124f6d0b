"""asdgan: train and compare detectors of anomalous machine sound."""

__version__ = "0.1.0"
