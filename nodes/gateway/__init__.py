"""The HTTP APIs in front of a mesh, and its page.

It is a client of the mesh like any other. It may import services and everything below them; the
doctor and the command line import it.
"""
