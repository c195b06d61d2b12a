"""What may be wrong with an installation, its machine and its mesh, and how each is mended.

One module a subject; a check is a function of what was found, the finding out stands beside it.
"""
