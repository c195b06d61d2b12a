"""Measurements of whole running meshes, each beside its reference, in one run."""
