"""The connection of a program to a running mesh: requests go out, tokens come in.

It goes on by itself with another coordinator when one dies. It may import workers' links, messages
and telemetry; the Python library, the gateway, the doctor and the command line import it.
"""
