"""`python -m airdraft` is the command line."""

from airdraft.nodes.cli.main import main

main()
