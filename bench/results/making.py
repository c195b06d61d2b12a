"""Results of this machine from a suite's cells."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from bench.results.machine import this_commit, this_machine, typed_command
from bench.results.schema import SCHEMA, Cell, Results, System
from nodes.cli.version import distribution_version

_LIBRARY = "llama-cpp-python"
# Name of the reference in `bench/bare.py`.
BARE = "bare llama.cpp loop"


def airdraft_system(settings: str = "") -> System:
    """Return airdraft of this source tree as a system of a result."""
    version = f"airdraft {distribution_version('airdraft')}"
    return System(name="airdraft", version=version, settings=settings)


def bare_system(settings: str = "") -> System:
    version = f"libllama of {_LIBRARY} {distribution_version(_LIBRARY)}"
    return System(name=BARE, version=version, settings=settings)


def result_of(
    cells: Sequence[Cell],
    *,
    systems: Sequence[System] = (),
    skipped: Sequence[str] = (),
    is_quick: bool = False,
    cores_at_once: float | None = None,
) -> Results:
    """Return the result of this command with the current time, machine and commit."""
    return Results(
        schema=SCHEMA,
        made_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=typed_command(),
        commit=this_commit(),
        machine=this_machine(),
        systems=tuple(systems),
        cells=tuple(cells),
        skipped=tuple(skipped),
        is_quick=is_quick,
        cores_at_once=cores_at_once,
    )
