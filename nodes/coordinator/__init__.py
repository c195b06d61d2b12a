"""The coordinator: the members of the mesh, the placement and the journal of every stream.

It consists of pure states and one shell around them. It may import the scheduler, the workers'
modules and telemetry; only services import it.
"""
