"""Conversations as the text of a model's chat template, which is code of the model file."""
