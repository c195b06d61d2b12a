"""One radio cell emulated for several nodes: a pure medium, and two ways to put nodes on it."""
