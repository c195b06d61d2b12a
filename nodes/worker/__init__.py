"""What target and draft nodes share: their link to the coordinator, their engine, their streams.

It may import engines, the catalogue, settings and messages; both roles, the scheduler and clients
import it.
"""
