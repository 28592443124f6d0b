"""A finished run at work: new recordings scored, a challenge submission written."""
