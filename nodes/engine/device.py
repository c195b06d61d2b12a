"""Describes the CPU of this machine, as far as self-tests and speeds depend on it.

x86 has a model name. arm64 has none: there the description has implementer, part and revision of
each core and the board from the device tree. It leaves out serial numbers and changing values.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path

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


def describe_device(cpuinfo: str, board: str, num_cpus: int) -> str:
    """Return one line that differs between devices whose bits or speeds may differ.

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
    """Return `describe_device` of this machine, without what cannot be read."""
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
