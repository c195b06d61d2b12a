"""What a result says: figures of turns as cells, the machine, the commit, the command."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from bench.load.figures import UNITS, Figures
from bench.pairs import paired_ratio
from bench.results.schema import Cell, Machine, Value

# Metrics of ratios; in each of them more is better.
_COMPARED = ("tokens/s", "decode tokens/s")


def cells_of(
    suite: str,
    place: str,
    names: Sequence[str],
    turns: Sequence[Sequence[Figures | None]],
    ours: Sequence[str],
) -> list[Cell]:
    """Return a cell for each system, and one with ratios for each pair of our system and another.

    turns: figures of each turn, in the order of names; None if a system had no turn. ours: our
    systems; each is compared with all systems except itself and those before it in `ours`.
    """
    by_name = {name: [turn[k] for turn in turns] for k, name in enumerate(names)}
    cells = []
    for name, figures in by_name.items():
        present = [each for each in figures if each is not None]
        notes = []
        if num_failed := sum(each.num_failed for each in present):
            notes.append(f"{num_failed} of {sum(each.num_requests for each in present)} failed")
        if len(present) < len(figures):
            notes.append(f"{len(present)} of {len(figures)} turns")
        values = tuple(_values(present))
        cells.append(
            Cell(suite=suite, place=place, system=name, values=values, note="; ".join(notes))
        )
    for place_of_own, own in enumerate(ours):
        for name in names if own in by_name else ():
            if name not in ours[: place_of_own + 1]:
                ratios = tuple(_ratios(by_name[name], by_name[own]))
                pair = Cell(suite=suite, place=place, system=own, reference=name, ratios=ratios)
                cells.append(pair)
    return cells


def _values(figures: Sequence[Figures]) -> Iterator[Value]:
    for metric in figures[0].metrics if figures else ():
        found = [each.metrics[metric] for each in figures]
        # No good request is a figure of a turn, too; of other metrics 0 means that there was none.
        least = 0.0 if metric == "goodput" else math.ulp(0.0)
        known = [value for value in found if math.isfinite(value) and value >= least]
        if known:
            low, high = (min(known), max(known)) if len(known) > 1 else (None, None)
            unit = UNITS.get(metric, "s")
            yield Value(metric=metric, unit=unit, value=median(known), low=low, high=high)


def _ratios(reference: Sequence[Figures | None], own: Sequence[Figures | None]) -> Iterator[Value]:
    both = [(a, b) for a, b in zip(reference, own, strict=True) if a is not None and b is not None]
    for metric in _COMPARED:
        pairs = [(a.metrics[metric], b.metrics[metric]) for a, b in both]
        pairs = [pair for pair in pairs if min(pair) > 0]
        if pairs:
            found = paired_ratio(pairs)
            yield Value(metric=metric, unit="x", value=found.median, low=found.low, high=found.high)


_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "asimddp", "i8mm")
_ROOT = Path(__file__).parents[2]


def this_machine() -> Machine:
    """Return the facts that can be read without privileges; "" or 0 for those that cannot."""
    info = _processor_info()
    present = (info.get("flags") or info.get("Features") or "").split()
    return Machine(
        processor=info.get("model name") or platform.processor() or platform.machine(),
        num_cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        flags=tuple(flag for flag in _FLAGS if flag in present),
        kernel=platform.release(),
        python=platform.python_version(),
    )


def _processor_info() -> dict[str, str]:
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
    return found


def this_commit() -> str:
    """Return this tree's commit, with "+" if files differ from it; "" outside of a checkout."""
    git = ["git", "-C", str(_ROOT)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def typed_command() -> str:
    """Return the command line; of absolute paths only the names, to publish no folders' names."""
    parts = [re.sub(r"^(--[a-z-]+=)?/.*/(?=.)", r"\1", part) for part in sys.argv[1:]]
    return f"python -m bench {shlex.join(parts)}"
