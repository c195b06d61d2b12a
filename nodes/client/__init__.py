"""The connection of a program to a running mesh: sends requests and receives tokens.

If a coordinator dies, requests continue with the next one. The package may import workers' links,
messages and telemetry; the Python library, the gateway, the doctor and the command line import it.
"""
