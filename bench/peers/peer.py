"""The interface of a peer: whether it can run here, and how to start and stop it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.load.asking import Endpoint


class PeerError(Exception):
    """A peer did not start or does not serve; the text names the peer and the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Settings that are the same for all compared systems. target, draft: GGUF files. num_slots:
    requests served at a time, with cells_a_slot cache cells each. num_threads: threads of an
    engine.
    """

    target: Path
    draft: Path | None
    num_slots: int
    num_threads: int
    cells_a_slot: int = 2048


@dataclass(frozen=True, slots=True)
class Running:
    """A system that serves. pids: processes that, with their descendants, make up the system."""

    endpoint: Endpoint
    pids: tuple[int, ...]


class Peer(Protocol):
    """One way to run a system. name: name in tables. version: "" if the system is missing."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def missing(self) -> str:
        """Return in one line why the system cannot run here; "" if it can."""
        ...

    def started(self, setup: Setup) -> AbstractContextManager[Running]:
        """Start the system; it serves until the end of the block. Raises PeerError."""
        ...


@contextlib.contextmanager
def serving(
    name: str, command: Sequence[str], port: int, limit_s: float, environ: Mapping[str, str] = {}
) -> Iterator[int]:
    """Run a command that listens on a port until the end of the block; yields its process id.

    environ: added to that of this process. Raises PeerError.
    """
    process = subprocess.Popen(
        command,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_open(name, port, process, limit_s)
        yield process.pid
    finally:
        process.terminate()
        stop(process)


def stop(process: subprocess.Popen[bytes], limit_s: float = 10.0) -> None:
    """Wait for the end of a process that has been terminated; kill it after limit_s seconds."""
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """Return a free loopback port, for systems that cannot let the kernel choose one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_open(name: str, port: int, process: subprocess.Popen[bytes], limit_s: float) -> None:
    """Wait until a process listens. Raises PeerError if it ends first or exceeds limit_s."""
    give_up_at = time.monotonic() + limit_s
    while time.monotonic() < give_up_at:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        if process.poll() is not None:
            raise PeerError(f"{name}: exited with code {process.returncode} while starting")
        time.sleep(0.1)
    raise PeerError(f"{name}: did not listen within {limit_s:.0f} s")
