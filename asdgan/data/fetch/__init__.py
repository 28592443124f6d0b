"""Releases from their published record to a folder on disk."""
