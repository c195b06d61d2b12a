"""Calls of functions on a real model: whether they are valid, the same, and the right ones."""
