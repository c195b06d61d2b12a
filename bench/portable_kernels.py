"""Comparison of the kernels' bits on this processor with those on arm64 under QEMU."""

from __future__ import annotations

import platform
import shutil
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

from bench.portable import PortableError
from nodes.engine.kernels.build import BuildError, build

_DRIVER = Path(__file__).with_suffix(".cpp")
_LIMIT_S = 600.0


def run_portable_kernels(arm_compiler: str) -> tuple[str, bool]:
    """Return a table of digests, and whether they agree in each row. Raises PortableError."""
    machines: dict[str, tuple[str, tuple[str, ...]]] = {platform.machine(): ("c++", ())}
    if platform.machine() != "aarch64":
        # The folder with the libraries has the name with which the compiler's begins.
        root = "/usr/" + arm_compiler.removesuffix("-g++")
        machines["aarch64"] = (arm_compiler, ("qemu-aarch64", "-L", root))
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for machine, (compiler, emulator) in machines.items():
        for line in _digests(machine, compiler, emulator):
            what, name, digest = line.split()
            found[what][f"{name}, {machine}"] = digest
    columns = next(iter(found.values()))
    rows = [
        f"| | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
        *(f"| {what} | {' | '.join(digests.values())} |" for what, digests in found.items()),
    ]
    return "\n".join(rows), all(len(set(digests.values())) == 1 for digests in found.values())


def _digests(machine: str, compiler: str, emulator: tuple[str, ...]) -> list[str]:
    for program in (compiler, *emulator[:1]):
        if shutil.which(program) is None:
            raise PortableError(f"{program} is missing: install g++ for arm64, and qemu-user")
    with tempfile.TemporaryDirectory() as folder:
        library, driver = Path(folder) / "libkernels.so", Path(folder) / "driver"
        files = [str(_DRIVER), str(library), "-Wl,-rpath,$ORIGIN", "-o", str(driver)]
        flags = ["-std=c++17", "-O1", "-ffp-contract=off"]
        try:
            build(library, compiler=compiler, machine=machine)
            subprocess.run([compiler, *flags, *files], check=True, capture_output=True)
            shown = subprocess.run(
                [*emulator, str(driver)], check=True, capture_output=True, timeout=_LIMIT_S
            )
        except BuildError as error:
            raise PortableError(f"{machine}: {error}") from error
        except subprocess.CalledProcessError as error:
            last = (error.stderr.decode().strip().splitlines() or [str(error)])[-1]
            raise PortableError(f"{machine}: {last}") from error
    return shown.stdout.decode().splitlines()
