"""The target node: it verifies guesses and decodes.

A pure state decides what each pass holds, and a shell runs the passes on the engine. The package
may import nodes.worker and the engines; only services import it.
"""
