"""The gateway: an HTTP server with the APIs of a mesh and its status page.

It is a client of the mesh like any other. It may import services and everything below them; the
doctor and the command line import it.
"""
