"""The digest of sampling on other CPUs, each emulated by a QEMU process.

On x86 the C library chooses its logarithm by the CPU. Without FMA it rounds differently than with
it, so texts once depended on the CPU. QEMU has no AVX-512.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from nodes.engine.golden import sampling_digest

# The least that numpy needs (SSE4.2), then with AVX2 and FMA, then everything that QEMU has.
X86_CPUS = ("Nehalem", "Haswell", "max")
_SHOW = "from nodes.engine.golden import sampling_digest; print(sampling_digest())"
_LIMIT_S = 600.0


class PortableError(Exception):
    """A CPU cannot be emulated. The text is one line."""


def run_portable(arm_root: Path | None) -> tuple[str, bool]:
    """Return a table of digests and whether all are equal. arm_root: see `emulated_arm`."""
    digests = {f"this one, {platform.machine()}": sampling_digest()}
    if platform.machine() == "x86_64":
        digests |= {f"x86_64, QEMU's {cpu}": emulated_x86(cpu) for cpu in X86_CPUS}
    if arm_root is not None:
        digests["aarch64, QEMU's max"] = emulated_arm(arm_root)
    rows = ["| CPU | digest |", "|---|---|", *(f"| {cpu} | {d} |" for cpu, d in digests.items())]
    return "\n".join(rows), len(set(digests.values())) == 1


def emulated_x86(cpu: str) -> str:
    """Return the digest by this Python on one of QEMU's x86 CPUs. Raises PortableError."""
    interpreter = Path(sys.executable).resolve()
    return _digest(["qemu-x86_64", "-cpu", cpu, str(interpreter)], Path(np.__file__).parents[1])


def emulated_arm(root: Path) -> str:
    """Return the digest on an emulated arm64. Raises PortableError.

    root: folder with an unpacked Python at usr/bin/python3, its libraries, and numpy in site/.
    """
    python = root / "usr/bin/python3"
    return _digest(["qemu-aarch64", "-L", str(root), str(python.resolve())], root / "site")


def _digest(command: list[str], packages: Path) -> str:
    if shutil.which(command[0]) is None:
        raise PortableError(f"{command[0]} is missing: install qemu-user")
    here = Path(__file__).resolve().parents[1]
    path = os.pathsep.join((str(here), str(packages)))
    try:
        shown = subprocess.run(
            [*command, "-c", _SHOW],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PortableError(f"{' '.join(command)}: {error}") from error
    if shown.returncode != 0:
        last = (shown.stderr.strip().splitlines() or [f"exit code {shown.returncode}"])[-1]
        raise PortableError(f"{' '.join(command)}: {last}")
    return shown.stdout.strip()
