"""Everyday clients against a mesh: each of the scripts is one, and runs with its own packages."""
