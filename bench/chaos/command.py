"""`python -m bench chaos`: check how a mesh of real processes behaves under faults."""

from __future__ import annotations

import logging

import click

from bench.chaos.detect import detect_command
from bench.chaos.endurance.scarce import scarce_command
from bench.chaos.endurance.soak import soak_command
from bench.chaos.kills.points import points_command
from bench.chaos.kills.rolling import rolling_command
from bench.chaos.kills.stages import stages_command
from bench.chaos.kills.storm import kills_command
from bench.chaos.links.profiles import links_command
from bench.chaos.links.stalls import stalls_command


@click.group(
    "chaos",
    commands=[
        *(kills_command, points_command, rolling_command, detect_command),
        *(links_command, stalls_command, soak_command, scarce_command, stages_command),
    ],
)
def chaos() -> None:
    """Run real processes under kills, stops and fail points, and check every request.

    \b
    Example:
      python -m bench chaos kills --kills 50 --streams 8
    """
    # Here coordinators are lost on purpose: warnings about it would hide the output.
    logging.basicConfig(level=logging.ERROR)
