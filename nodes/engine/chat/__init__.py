"""Renders conversations with a model's chat template, which is code from the model file."""
