"""The digest of sampling on CPUs that are not here: QEMU emulates them, a process each.

On x86 the C library chooses its logarithm by the CPU: one without FMA rounds another way than one
with it, which is how texts once came to depend on it. QEMU has no AVX-512.
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

# Without SSE4.2 numpy does not start; then with AVX2 and FMA; then all that QEMU has.
X86_CPUS = ("Nehalem", "Haswell", "max")
_SHOW = "from nodes.engine.golden import sampling_digest; print(sampling_digest())"
_LIMIT_S = 600.0


class PortableError(Exception):
    """A CPU cannot be emulated; one line."""


def run_portable(arm_root: Path | None) -> tuple[str, bool]:
    """A table of digests and whether all are equal. arm_root: see `emulated_arm`."""
    digests = {f"this one, {platform.machine()}": sampling_digest()}
    if platform.machine() == "x86_64":
        digests |= {f"x86_64, QEMU's {cpu}": emulated_x86(cpu) for cpu in X86_CPUS}
    if arm_root is not None:
        digests["aarch64, QEMU's max"] = emulated_arm(arm_root)
    rows = ["| CPU | digest |", "|---|---|", *(f"| {cpu} | {d} |" for cpu, d in digests.items())]
    return "\n".join(rows), len(set(digests.values())) == 1


def emulated_x86(cpu: str) -> str:
    """The digest by this very Python on one of QEMU's x86 CPUs. Raises PortableError."""
    interpreter = Path(sys.executable).resolve()
    return _digest(["qemu-x86_64", "-cpu", cpu, str(interpreter)], Path(np.__file__).parents[1])


def emulated_arm(root: Path) -> str:
    """The digest on an emulated arm64. Raises PortableError.

    root: has an unpacked Python at usr/bin/python3 with its libraries, and numpy in site/.
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
