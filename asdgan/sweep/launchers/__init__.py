"""Where jobs of a sweep run: local worker processes, a Slurm cluster, Ray."""
