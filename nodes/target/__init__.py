"""The target node: verifies guesses and decodes."""
