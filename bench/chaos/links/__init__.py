"""Meshes with bad links: lossy, cut for a while, one-way, half-open, or behind a faulty proxy."""
