"""Meshes whose links are bad: lossy, dark for a while, one-way, half-open, or ailing by a proxy."""
