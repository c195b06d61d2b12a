"""Processor time of a system's processes, with all their descendants."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """Return a process and its living descendants; an empty list if it has ended."""
    found, left = [], [pid]
    while left:
        current = left.pop()
        try:
            children = Path(f"/proc/{current}/task/{current}/children").read_text()
        except OSError:
            continue
        found.append(current)
        left += map(int, children.split())
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """Return the processor time that processes, and children they have waited for, have used."""
    return sum(_cpu_s(pid) for pid in pids)


def _cpu_s(pid: int) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    # The process name in brackets may contain spaces and brackets, so split after the last one.
    fields = stat.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS_PER_S
