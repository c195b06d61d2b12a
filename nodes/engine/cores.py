"""This machine: cores and memory that are free for engines, and a description of its CPU.

x86 has a model name. arm64 has none: there the description has implementer, part and revision of
each core and the board from the device tree. It leaves out serial numbers and changing values.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

# The time between two looks at the load of other processes, whose times are known to 0.01 s. While
# draft nodes of this machine pause, so that the target's speed without them is measured, it has to
# get their cores within some of the 24 passes of the pause.
_LOOK_EVERY_S = 0.2
# Fields of /proc/cpuinfo, which has a block for each core.
_CORE_FIELDS = (
    "vendor_id",
    "cpu family",
    "model",
    "model name",
    "stepping",
    "CPU implementer",
    "CPU architecture",
    "CPU variant",
    "CPU part",
    "CPU revision",
    "cpu",
    "revision",
    "isa",
    "uarch",
)
# These fields list hundreds of words, so the description has a digest of them.
_FEATURE_FIELDS = ("flags", "Features")
_MOST_CHARS = 200


def sizes_in(meminfo: str) -> Counter[str]:
    """Returns the sizes of /proc/meminfo in bytes, by name; 0 for a name that is missing."""
    lines = (line.partition(":") for line in meminfo.splitlines() if ":" in line)
    return Counter({name: int(value.split()[0]) * 1024 for name, _, value in lines})


def available_memory(root: Path = Path("/")) -> int:
    """Returns the bytes that this process can take without swapping, as far as the system tells.

    root: The parent of /sys and /proc.
    """
    told = sizes_in(read(root / "proc/meminfo"))["MemAvailable"]
    told = told or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(0, int(min(told, *map(_memory_left, _control_groups(root)))))


def _memory_left(group: Path) -> float:
    """Returns the bytes that a control group may still take; infinite without a limit."""
    limit, used = read(group / "memory.max"), read(group / "memory.current")
    if not limit.isdecimal() or not used.isdecimal():
        return float("inf")
    # The system takes back the memory of files that nobody has used of late.
    lines = (line.partition(" ") for line in read(group / "memory.stat").splitlines())
    unused = next((int(value) for name, _, value in lines if name == "inactive_file"), 0)
    return int(limit) - int(used) + unused


def usable_cores(root: Path = Path("/"), cpus: frozenset[int] | None = None) -> int:
    """Returns the number of physical cores that this process, with its control groups, may use.

    root: The parent of /sys and /proc. cpus: The CPUs to count; those of this process by default.
    Two CPUs of one core share its arithmetic units, so a second thread on it gains nothing.
    """
    cpus = cpus or frozenset(os.sched_getaffinity(0))
    folder = root / "sys/devices/system/cpu"
    cores = {read(folder / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in cpus}
    return max(1, int(min(len(cores), *map(_quota, _control_groups(root)))))


def _control_groups(root: Path) -> list[Path]:
    """Returns the folders of this process's control groups of version 2, from the outermost one on.

    Each limits those inside it. In a container its own group is the outermost one to be seen.
    """
    lines = read(root / "proc/self/cgroup").splitlines()
    own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    parts = [part for part in own.split("/") if part not in ("", "..")]
    top = root / "sys/fs/cgroup"
    return [top.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]


def _quota(group: Path) -> float:
    """Returns the CPUs that a control group may use; infinite without a limit."""
    quota, _, period = read(group / "cpu.max").partition(" ")
    if quota.isdecimal() and period.isdecimal() and int(period):
        return int(quota) / int(period)
    return float("inf")


def read(path: Path) -> str:
    """Returns the text of a file of the system; "" if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def used_seconds(root: Path = Path("/"), cpus: frozenset[int] | None = None) -> tuple[float, float]:
    """Returns the seconds of CPU time that all processes used on these CPUs, and those of this one.

    The first number counts from the start of the machine.
    """
    cpus = cpus or frozenset(os.sched_getaffinity(0))
    names = {f"cpu{cpu}" for cpu in cpus}
    ticks = 0
    for line in read(root / "proc/stat").splitlines():
        name, *columns = line.split()
        if name in names:
            # user, nice, system; then idle and iowait; then irq, softirq. user includes guests.
            ticks += sum(map(int, columns[:3])) + sum(map(int, columns[5:7]))
    return ticks / os.sysconf("SC_CLK_TCK"), time.process_time()


class FreeCores:
    """Sets the number of threads to the number of cores that other processes leave free.

    Threads that wait for one another on a core that another process uses cost several times what
    they gain. The number may change from pass to pass, because no bit depends on it.

    read: Returns the CPU seconds of all processes on these CPUs, and those of this process.
    """

    def __init__(
        self,
        most: int,
        *,
        read: Callable[[], tuple[float, float]] = used_seconds,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most, self._read, self._clock = most, read, clock
        self._looked_at, self._used = clock(), read()
        self.num_threads = most

    def changed(self) -> bool:
        """Update `num_threads` if the last look is long enough ago; whether it has changed."""
        now = self._clock()
        passed_s = now - self._looked_at
        if passed_s < _LOOK_EVERY_S:
            return False
        (all_before, own_before), (all_now, own_now) = self._used, self._read()
        self._looked_at, self._used = now, (all_now, own_now)
        others = (all_now - all_before - (own_now - own_before)) / passed_s
        before = self.num_threads
        self.num_threads = max(1, min(self._most, round(self._most - others)))
        return self.num_threads != before


def describe_device(cpuinfo: str, board: str, num_cpus: int) -> str:
    """Returns one line that differs between devices whose bits or speeds may differ.

    cpuinfo: The text of /proc/cpuinfo, whose cores may be of several kinds. board: The model in the
    device tree; "" if there is none. num_cpus: The CPUs of the system.
    """
    kinds = Counter(kind for block in cpuinfo.split("\n\n") if (kind := _core(block)))
    cores = [f"{count} x {kind}" for kind, count in sorted(kinds.items())]
    parts = [board.strip("\0 \n")[:_MOST_CHARS], *cores, f"{num_cpus} CPUs"]
    return "; ".join(part for part in parts if part)


def _core(block: str) -> str:
    fields: dict[str, str] = {}
    for line in block.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields[name.strip()] = " ".join(value.split())
    words = [f"{name} {fields[name][:_MOST_CHARS]}" for name in _CORE_FIELDS if name in fields]
    # On arm the last block describes the board, with other field names.
    if not words:
        return ""
    for name in _FEATURE_FIELDS:
        if name in fields:
            features = " ".join(sorted(fields[name].split()))
            words.append(f"{name} {hashlib.sha256(features.encode()).hexdigest()[:12]}")
    return ", ".join(words)


def this_device() -> str:
    """Returns `describe_device` of this machine, without what cannot be read."""
    return describe_device(
        read(Path("/proc/cpuinfo")), read(Path("/proc/device-tree/model")), os.cpu_count() or 0
    )
