"""Check what a mesh writes and serves while its disk is full or read-only."""

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
    """Test disks cannot be mounted on this machine, or the scenes failed; the text says why."""


@dataclass(slots=True)
class DiskFound:
    """Results. refused: error line by command. recovered_s: from free space until all works."""

    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    recovered_s: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        refused = "".join(f"\n  {name}: {line}" for name, line in self.refused.items())
        faults = "".join(f"\n  {fault}" for fault in self.faults)
        return "\n".join(self.lines) + f"{refused}\n{len(self.faults)} faults{faults}"


def dump(found: DiskFound) -> str:
    """Return the results as a line of JSON."""
    return json.dumps(asdict(found))


def why_not() -> str:
    """Return why a disk cannot be mounted on this machine; "" if it can."""
    if shutil.which("unshare") is None:
        return "the command `unshare` is missing"
    mounted = "mount -t tmpfs -o size=1m tmpfs /mnt"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mounted], capture_output=True, text=True, check=False
    )
    return done.stderr.strip() if done.returncode else ""


def run_disk(*scenes: str) -> DiskFound:
    """Run some scenes of `disk_scenes.py`, all if none is named. Raises NoDiskError.

    They run in a mount namespace of their own, so no mount is left on this machine.
    """
    if reason := why_not():
        raise NoDiskError(f"a test disk cannot be mounted: {reason}")
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
