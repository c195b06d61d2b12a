"""Code shared by target and draft nodes: the link to the coordinator, the engine, the streams.

The package may import engines, the catalogue, settings and messages. Both roles, the scheduler and
clients import it.
"""
