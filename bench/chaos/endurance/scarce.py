"""`python -m bench chaos scarce`: a scene for each resource that is scarce or faulty."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

import click

from bench.chaos.endurance.clocks import run_alone, run_clocks
from bench.chaos.endurance.disk import run_disk
from bench.chaos.endurance.fds import coordinator_starved, gateway_starved
from bench.chaos.endurance.half_open import CUT, half_open, replaced
from bench.chaos.endurance.node_files import node_starved, texts_starved
from bench.harness.report import Findings, conclude, note
from bench.options import names_option

# Time without any free file.
_STARVED_S: Final = 6.0
# An outage within which every request waits, and one that outlasts deadlines and waits for targets.
_CUTS_S: Final = (8.0, 60.0)
_NODES: Final = ("target", "draft")


def _run(scene: Callable[..., Coroutine[Any, Any, Findings]], *arguments: Any) -> Findings:
    return asyncio.run(scene(*arguments))


def _cut(role: str) -> Findings:
    """Cut a role off for a short and for a long time."""
    all_found = Findings()
    for lasts_s in _CUTS_S:
        found = _run(half_open, role, lasts_s)
        all_found.lines += found.lines
        all_found.faults += found.faults
    return all_found


_SCENES: Final[dict[str, Callable[[], Findings]]] = {
    **{
        name: partial(run_disk, name)
        for name in ("full", "read-only", "stderr", "full-mesh", "full-cache", "full-commands")
    },
    "coordinator-files": partial(_run, coordinator_starved, 64, _STARVED_S),
    "gateway-files": partial(_run, gateway_starved, 128, 200, _STARVED_S),
    **{f"{role}-files": partial(_run, node_starved, role, _STARVED_S) for role in _NODES},
    "target-texts": partial(_run, texts_starved, _STARVED_S),
    "clocks": partial(_run, run_clocks),
    "clocks-alone": partial(_run, run_alone),
    **{f"{role}-half-open": partial(_cut, role) for role in CUT},
    **{f"{role}-gone": partial(_run, replaced, role) for role in _NODES},
}


@click.command("scarce")
@names_option("--scenes", _SCENES, "What is scarce or faulty.")
def scarce_command(scenes: list[str]) -> None:
    """Run meshes whose disk, standard error, files, clocks or links are scarce or faulty.

    State, logs and caches lie on a full or a read-only disk (needs root). Standard error takes
    nothing. A coordinator or a gateway gets more connections than it has files, and a node can open
    none. Monotonic clocks differ by days (needs root) and wall clocks jump (needs cc), of all roles
    or of one alone. The packets of one role vanish, for a while or for good (needs root).

    \b
    Example:
      python -m bench chaos scarce --scenes full,coordinator-files
    """
    found = []
    for name in scenes:
        note(name)
        found.append(_SCENES[name]())
    conclude(*found)
