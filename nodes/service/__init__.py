"""Processes: builds, starts, watches and stops roles, and runs them as systemd services.

The package may import every role; the gateway and the command line import it.
"""
