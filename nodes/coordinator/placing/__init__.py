"""Chooses the target of each stream, and handles streams that have none."""
