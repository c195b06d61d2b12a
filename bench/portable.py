"""Bits of sampling and of kernels on other CPUs, each emulated by a QEMU process.

On x86 the C library chooses its logarithm by the CPU. Without FMA it rounds differently than with
it, so texts once depended on the CPU. QEMU has no AVX-512.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import click
import numpy as np

from airdraft.nodes.engine.golden import sampling_digest
from airdraft.nodes.engine.kernels.build import BuildError, build
from bench.harness.report import Findings, conclude, head, row

# The least that numpy needs (SSE4.2), then with AVX2 and FMA, then everything that QEMU has.
_X86_CPUS = ("Nehalem", "Haswell", "max")
_SHOW = "from airdraft.nodes.engine.golden import sampling_digest; print(sampling_digest())"
_DRIVER = Path(__file__).with_name("portable_kernels.cpp")
_LIMIT_S = 600.0
_HERE = platform.machine()


@click.command("portable")
@click.option(
    "--arm-root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder with an arm64 Python and numpy; CONTRIBUTING.md describes how to make it.",
)
@click.option("--arm-compiler", help="Adds kernels on arm64: aarch64-linux-gnu-g++.")
def portable_command(arm_root: Path | None, arm_compiler: str | None) -> None:
    """Check that sampling and kernels give the same bits on other CPUs.

    Kernels of all instruction sets of this CPU are compared, and sampling on x86 CPUs that QEMU
    emulates. The options add arm64.

    \b
    Example:
      python -m bench portable --arm-compiler aarch64-linux-gnu-g++
    """
    machines: dict[str, tuple[str, tuple[str, ...]]] = {_HERE: ("c++", ())}
    if arm_compiler is not None:
        # The folder with the libraries has the name with which the compiler's begins.
        root = "/usr/" + arm_compiler.removesuffix("-g++")
        machines["aarch64"] = (arm_compiler, ("qemu-aarch64", "-L", root))
    # A missing compiler or emulator is said before any kernels are compiled.
    programs = [
        name for compiler, emulator in machines.values() for name in (compiler, *emulator[:1])
    ]
    for program in (*programs, *["qemu-x86_64"] * (_HERE == "x86_64")):
        _run([program, "--version"])
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for machine, (compiler, emulator) in machines.items():
        for line in _digests(machine, compiler, emulator):
            what, name, digest = line.split()
            found[f"kernels, {what}"][f"{name}, {machine}"] = digest
    found["sampling"][f"this one, {_HERE}"] = sampling_digest()
    if _HERE == "x86_64":
        for cpu in _X86_CPUS:
            found["sampling"][f"x86_64, QEMU's {cpu}"] = emulated_x86(cpu)
    if arm_root is not None:
        found["sampling"]["aarch64, QEMU's max"] = _emulated_arm(arm_root)
    table = Findings([head("what", "CPU", "digest")])
    for what, digests in found.items():
        table.lines += [row(what, *item) for item in digests.items()]
        if len(set(digests.values())) > 1:
            table.faults.append(f"{what}: the digests differ")
    conclude(table)


def emulated_x86(cpu: str) -> str:
    """Returns the digest by this Python on one of QEMU's x86 CPUs. Raises ClickException."""
    interpreter = str(Path(sys.executable).resolve())
    return _sampled(["qemu-x86_64", "-cpu", cpu, interpreter], Path(np.__file__).parents[1])


def _emulated_arm(root: Path) -> str:
    """root: has an unpacked Python at usr/bin/python3, its libraries, and numpy in site/."""
    python = str((root / "usr/bin/python3").resolve())
    return _sampled(["qemu-aarch64", "-L", str(root), python], root / "site")


def _sampled(command: list[str], packages: Path) -> str:
    here = Path(__file__).resolve().parents[1]
    return _run([*command, "-c", _SHOW], path=os.pathsep.join((str(here), str(packages))))


def _run(command: list[str], path: str = "") -> str:
    """Returns the output of a command. Raises ClickException. path: that of Python's packages."""
    environ, name = {**os.environ, "PYTHONPATH": path}, " ".join(command)
    try:
        done = subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except FileNotFoundError:
        text = f"{command[0]} is missing: install qemu-user, and g++ for arm64"
        raise click.ClickException(text) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise click.ClickException(f"{name}: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise click.ClickException(f"{name}: {last}")
    return done.stdout.strip()


def _digests(machine: str, compiler: str, emulator: tuple[str, ...]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        library, driver = Path(folder) / "libkernels.so", Path(folder) / "driver"
        files = [str(_DRIVER), str(library), "-Wl,-rpath,$ORIGIN", "-o", str(driver)]
        try:
            build(library, compiler=compiler, machine=machine)
        except BuildError as error:
            raise click.ClickException(f"{machine}: {error}") from error
        _run([compiler, "-std=c++17", "-O1", "-ffp-contract=off", *files])
        return _run([*emulator, str(driver)]).splitlines()
