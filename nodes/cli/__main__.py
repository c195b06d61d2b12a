"""`python -m nodes.cli` is the command line."""

from nodes.cli.main import main

main()
