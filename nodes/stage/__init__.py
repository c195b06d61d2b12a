"""A stage of a split model on a device of its own, and a target's links to its stages.

A stage knows no texts and no tokens, but rows of numbers, of which it makes other rows.
"""
