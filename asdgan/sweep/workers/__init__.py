"""Warm processes that do one job after the other, and the pool that starts and ends them."""
