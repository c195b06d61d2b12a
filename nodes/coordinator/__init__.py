"""The coordinator: who is in the mesh, who serves what, and the journal of every stream.

Pure states, and one shell around them. It may import the scheduler, workers' modules and telemetry;
only services import it.
"""
