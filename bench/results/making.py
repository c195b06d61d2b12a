"""What a result says of its run: the machine, the commit, the command."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path

from bench.results.schema import Machine

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "asimddp", "i8mm")
_ROOT = Path(__file__).parents[2]


def this_machine() -> Machine:
    """Returns the facts that can be read without privileges; "" or 0 for those that cannot."""
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
    """Returns this tree's commit, with "+" if files differ from it; "" outside of a checkout."""
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
    """Returns the command line; of absolute paths only the names, to publish no folders' names."""
    parts = [re.sub(r"^(--[a-z-]+=)?/.*/(?=.)", r"\1", part) for part in sys.argv[1:]]
    return f"python -m bench {shlex.join(parts)}"
