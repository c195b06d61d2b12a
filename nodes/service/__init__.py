"""Processes: how a role is built, started, watched, stopped, and run as a service of systemd.

It may import every role; the gateway and the command line import it.
"""
