"""What is typed to checked settings, their identity, and the detector they describe."""
