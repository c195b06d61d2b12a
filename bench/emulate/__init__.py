"""An emulated radio cell for several nodes, and recordings for emulated devices."""
