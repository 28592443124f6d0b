"""Wavs on disk to clips, log-mel frames and windows; labels stop here."""
