"""Many points: planned, packed into jobs, and worked off by warm processes."""
