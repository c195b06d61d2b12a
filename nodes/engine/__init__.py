"""Models: running them, sampling from them, and everything that decides a text.

It imports nothing of airdraft but its own modules; every role imports it. Nothing in it knows of
the mesh or of an event loop.
"""
