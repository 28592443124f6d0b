"""The sweep: a grid, planned as stacks, trained by warm processes, written as it comes."""
