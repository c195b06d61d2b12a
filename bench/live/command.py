"""`python -m bench live`: measure running meshes beside what they are compared with."""

from __future__ import annotations

import click

from bench.live.edge import edge_command
from bench.live.gateway import gateway_command
from bench.live.machine import machine_command
from bench.live.scale import scale_command


@click.group("live", commands=[edge_command, gateway_command, machine_command, scale_command])
def live() -> None:
    """Measure whole meshes and their references in one run.

    \b
    Example:
      python -m bench live machine --draft none --streams 1,4
    """
