"""Settings of every role: their names, types and defaults, and where they are read from.

A TOML file comes first, then the environment, then the command line. It may import the catalogue;
everything that starts a process imports it.
"""
