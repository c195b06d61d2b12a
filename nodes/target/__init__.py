"""The target node: it verifies guesses and decodes.

A pure state decides what each pass holds, and a shell runs it on the engine. It may import workers'
modules and engines; only services import it.
"""
