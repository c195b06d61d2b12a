"""Whole meshes that run, each beside what it is to be compared with, in one run."""
