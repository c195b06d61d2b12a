"""Models whose blocks of layers are computed by several processes, one after the other.

A stage takes a row for each token from the stage before and gives one to the next. The last stage
is the target's engine: it has the vocabulary, makes the rows of tokens, and computes logits.
"""
