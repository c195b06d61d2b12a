"""What the processes of a system have used: processor time, of a whole tree of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """A process and all that came of it and live; none where it is gone."""
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
    """Processor time of processes so far, of those that are gone and were waited for as well."""
    return sum(_cpu_s(pid) for pid in pids)


def _cpu_s(pid: int) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    # The name, in brackets, may hold anything.
    fields = stat.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS_PER_S
