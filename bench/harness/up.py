"""`airdraft serve` as a process: a whole mesh with its API."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.harness.fleet import FleetError
from bench.harness.processes import ROOT, stop, tree

TOYS: Final = ("--model", "toy:1", "--draft", "toy:0.8")
_STOP_LIMIT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Up:
    """A running mesh. endpoint: that of the coordinator. url: base of the API, which the same
    process serves. keys: directory of keys. faults: filled at the end: an exit code that is not 0,
    and nodes that still run then."""

    endpoint: str
    url: str
    keys: Path
    process: subprocess.Popen[str]
    faults: list[str] = field(default_factory=list)


@contextlib.contextmanager
def up(
    *arguments: str,
    keys: Path | None = None,
    log: Path | None = None,
    prefix: Sequence[str] = (),
    listen: str = "tcp://127.0.0.1:*",
    **environ: str,
) -> Iterator[Up]:
    """Run a mesh with its API, with the default pair unless arguments name other models.

    keys: directory of keys, empty by default. log: file for its standard error. prefix: command
    that runs it. listen: of the coordinator. Raises FleetError with its last error line if it ends
    instead of starting.
    """
    fixed = ("--listen", listen, "--port", "0")
    with contextlib.ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="airdraft-bench-")
        folder = Path(stack.enter_context(temporary))
        log, keys = log or folder / "log", keys or folder / "keys"
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "airdraft", "serve", *arguments, *fixed],
            env={**os.environ, "AIRDRAFT_KEYS": str(keys), "PYTHONPATH": str(ROOT), **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stack.enter_context(log.open("w")),
            text=True,
        )
        assert process.stdout is not None
        stack.callback(process.stdout.close)
        try:
            endpoint, url = (process.stdout.readline() for _ in range(2))
            if not url:
                said = log.read_text(errors="replace").splitlines() or ["it said nothing"]
                raise FleetError(f"airdraft serve did not start: {said[-1]}")
            mesh = Up(endpoint.split()[-1], url.split()[-1], keys, process)
            yield mesh
            nodes = tree(process.pid)[1:]
        finally:
            # After a SIGKILL its nodes end when their standard input closes.
            stop(process, _STOP_LIMIT_S)
        if process.returncode:
            mesh.faults.append(f"airdraft serve ended with exit code {process.returncode}")
        if left := [pid for pid in nodes if Path(f"/proc/{pid}").exists()]:
            mesh.faults.append(f"{len(left)} of its nodes still run after its end")
