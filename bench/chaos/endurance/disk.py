"""A disk that is full, or read-only: what is written there, and what is served meanwhile."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[3]
_LIMIT_S: Final = 600.0


class NoDiskError(Exception):
    """Disks cannot be made here; the text says why."""


@dataclass(slots=True)
class DiskFound:
    """refused: by writer, what it said. recovered_s: from room again to all being as before."""

    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    recovered_s: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        said = "".join(f"\n  {name}: {line}" for name, line in self.refused.items())
        faults = "".join(f"\n  {fault}" for fault in self.faults)
        return "\n".join(self.lines) + f"{said}\n{len(self.faults)} faults{faults}"


def dump(found: DiskFound) -> str:
    return json.dumps(asdict(found))


def why_not() -> str:
    """Why disks of our own cannot be mounted here; "" if they can."""
    if shutil.which("unshare") is None:
        return "there is no `unshare`"
    mounted = "mount -t tmpfs -o size=1m tmpfs /mnt"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mounted], capture_output=True, text=True, check=False
    )
    return done.stderr.strip() if done.returncode else ""


def run_disk(*scenes: str) -> DiskFound:
    """Play some of the scenes of `disk_scenes.py`, all if none is named. Raises NoDiskError.

    They have a mount namespace of their own: nothing of it is left on this machine.
    """
    if reason := why_not():
        raise NoDiskError(f"a disk of our own cannot be mounted: {reason}")
    module = "bench.chaos.endurance.disk_scenes"
    command = ["unshare", "--mount", sys.executable, "-m", module, *scenes]
    done = subprocess.run(
        command,
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise NoDiskError(f"the scenes failed: {done.stderr[-2000:]}")
    return DiskFound(**json.loads(done.stdout.splitlines()[-1]))
