"""Disks that take nothing, and commands that write to them.

A scene runs in a process with a mount namespace of its own, so no mount is left on this machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from airdraft.nodes.cli.main import main as airdraft_main
from bench.harness.processes import ROOT
from bench.harness.report import Findings

_ALL_LIMIT_S: Final = 600.0
BALLAST: Final = "ballast"
# Files that grow by themselves.
_LOGS: Final = (".log", "log")


def run_disk(scene: str) -> Findings:
    """Run a scene. Raises ClickException if it fails, or test disks cannot be mounted here."""
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-m", "bench.chaos.endurance.disk_scenes", scene],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_ALL_LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(f"{scene}: {done.stderr.strip()[-2000:]}")
    return Findings(**json.loads(done.stdout.splitlines()[-1]))


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Fill the disk to the last byte inside the block."""
    ballast = disk / BALLAST
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    try:
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Forbid opening files of the disk for writing inside the block; open files stay writable."""
    run("mount", "--bind", str(disk), str(disk))
    run("mount", "-o", "remount,bind,ro", str(disk))
    try:
        yield
    finally:
        run("umount", "--lazy", str(disk))


def airdraft(*argv: str) -> tuple[str, str]:
    """Run a command in this process, which is fast; return its output, and how it failed or ""."""
    output, errors, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["airdraft", *argv]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            airdraft_main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
    failure = errors.getvalue().strip() or f"no error output, exit code {code}"
    return output.getvalue(), failure if code else ""


def state_of(disk: Path) -> dict[str, str]:
    """Returns the hashes of the files on a disk, without logs and ballast."""
    files = (
        p
        for p in disk.rglob("*")
        if p.is_file() and p.name != BALLAST and not p.name.endswith(_LOGS)
    )
    return {str(p.relative_to(disk)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
