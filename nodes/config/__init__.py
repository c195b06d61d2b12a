"""The settings of every role: names, types, defaults, and the sources that they are read from.

The environment overrides a TOML file, and the command line overrides both. The package may import
the catalogue and messages; all code that starts a process imports it.
"""
