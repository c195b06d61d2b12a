"""Runs models, samples from them, and holds everything else that decides a text.

The package imports only its own modules and a few of `mesh` and `policies`; every role imports it.
It uses no event loop and knows nothing of the mesh's members.
"""
