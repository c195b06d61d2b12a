"""Real processes under faults, and a checker of what became of every request."""
