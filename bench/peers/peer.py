"""What the harness asks of a peer: to be there or say why not, to start, to serve, to stop."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.load.asking import Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The same for all who are compared. target, draft: GGUF files; num_slots: requests that are
    served at a time, each with so many cells; num_threads: of an engine.
    """

    target: Path
    draft: Path | None
    num_slots: int
    num_threads: int
    cells_a_slot: int = 2048


@dataclass(frozen=True, slots=True)
class Running:
    """A system that serves. pids: of the processes whose trees are all of it."""

    endpoint: Endpoint
    pids: tuple[int, ...]


class Peer(Protocol):
    """One way to run one system. name: as in tables. version: of what runs, "" if it is missing."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def missing(self) -> str:
        """Why it cannot run here, in one line; "" if it can."""
        ...

    def started(self, setup: Setup) -> AbstractContextManager[Running]:
        """Serving until the end of the block. Raises PeerError."""
        ...


def stop(process: subprocess.Popen[bytes], limit_s: float = 10.0) -> None:
    """Wait for a process that was told to end; kill it if it does not."""
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port of loopback that nobody has now, for systems that cannot let the kernel pick one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_open(name: str, port: int, process: subprocess.Popen[bytes], limit_s: float) -> None:
    """Until a process listens. Raises PeerError if it ends first, or takes too long."""
    give_up_at = time.monotonic() + limit_s
    while time.monotonic() < give_up_at:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        if process.poll() is not None:
            raise PeerError(f"{name}: ended with code {process.returncode} as it started")
        time.sleep(0.1)
    raise PeerError(f"{name}: did not listen within {limit_s:.0f} s")


class PeerError(Exception):
    """A peer did not start or does not serve; the text says which and why."""
