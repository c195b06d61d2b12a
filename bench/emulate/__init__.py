"""A radio cell emulated for several nodes, and recordings for nodes that are not there."""
