"""Run real processes under faults, and check the outcome of every request."""
