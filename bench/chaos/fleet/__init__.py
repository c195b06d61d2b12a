"""Meshes of real processes: start, kill and stop them, and measure what they hold."""
