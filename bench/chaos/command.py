"""`python -m bench chaos`: what a mesh of real processes does under faults."""

from __future__ import annotations

import click


@click.group("chaos")
def chaos() -> None:
    """Real processes under kills, stops and fail points; every request is checked.

    \b
    Example:
      python -m bench chaos kills --kills 50 --streams 8
    """
