"""Meshes of real processes: forked, struck, stopped, and what they hold."""
