"""Which CPU this is, as far as verdicts and speeds depend on it.

x86 has a model name. arm64 has none: there a core is told by who made it, its part and revision,
and a board by the device tree. Serial numbers and what changes while running are left out.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path

# Of /proc/cpuinfo, a block a core.
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
# Lists of hundreds of words: a digest of them is enough.
_FEATURE_FIELDS = ("flags", "Features")
_MOST_CHARS = 200


def describe_device(cpuinfo: str, board: str, num_cpus: int) -> str:
    """One line that differs between devices whose bits or speeds may differ.

    cpuinfo: text of /proc/cpuinfo, cores of several kinds included. board: of the device tree's
    model, "" where there is none. num_cpus: that the system has.
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
    # Behind the cores of an arm stands a block of the board, with names of its own.
    if not words:
        return ""
    for name in _FEATURE_FIELDS:
        if name in fields:
            features = " ".join(sorted(fields[name].split()))
            words.append(f"{name} {hashlib.sha256(features.encode()).hexdigest()[:12]}")
    return ", ".join(words)


def this_device() -> str:
    """`describe_device` of this machine; what cannot be read is left out."""
    return describe_device(
        _text(Path("/proc/cpuinfo")),
        _text(Path("/proc/device-tree/model")),
        os.cpu_count() or 0,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
