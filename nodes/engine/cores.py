"""How many engine threads are worth having: one for each physical core of this process."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores(root: Path = Path("/"), cpus: frozenset[int] | None = None) -> int:
    """Physical cores among the CPUs of this process, no more than its control group may use.

    root: of /sys. cpus: those of this process unless given. Two CPUs of one core share its
    arithmetic, so a thread on each gains nothing.
    """
    if cpus is None:
        cpus = frozenset(os.sched_getaffinity(0))
    folder = root / "sys/devices/system/cpu"
    cores = {_read(folder / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in cpus}
    quota = _quota(root / "sys/fs/cgroup")
    return max(1, int(min(len(cores), quota)))


def _quota(group: Path) -> float:
    """CPUs that a control group of version 2 may use; infinite where it does not say."""
    quota, _, period = _read(group / "cpu.max").partition(" ")
    if quota.isdecimal() and period.isdecimal() and int(period):
        return int(quota) / int(period)
    return float("inf")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
