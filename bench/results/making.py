"""Results of this machine from a suite's cells, and one result from those of several suites."""

from __future__ import annotations

import dataclasses
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


def merged(first: Results, *others: Results) -> Results:
    """Merge results of several suites of one machine, with the first one's command. Pure.

    Raises ValueError if the machines differ or a cell occurs twice.
    """
    parts = (first, *others)
    if any(part.machine != first.machine for part in others):
        raise ValueError("results of different machines cannot be merged")
    cells = tuple(cell for part in parts for cell in part.cells)
    seen = set()
    for cell in cells:
        key = (cell.suite, cell.place, cell.system, cell.reference)
        if key in seen:
            raise ValueError(f"{cell.suite}: {cell.place}: {cell.system} occurs twice")
        seen.add(key)
    return dataclasses.replace(
        first,
        made_at=min(part.made_at for part in parts),
        commit=", ".join(dict.fromkeys(part.commit for part in parts if part.commit)),
        systems=tuple(dict.fromkeys(s for part in parts for s in part.systems)),
        cells=cells,
        skipped=tuple(dict.fromkeys(reason for part in parts for reason in part.skipped)),
        is_quick=any(part.is_quick for part in parts),
        cores_at_once=min(
            (part.cores_at_once for part in parts if part.cores_at_once is not None), default=None
        ),
    )
