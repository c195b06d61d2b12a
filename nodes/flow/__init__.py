"""Guesses that flow: who follows which stream, and what travels between draft nodes and targets."""
