"""The interface of a peer: whether it can run here, and how to start and stop it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Protocol

from bench.load.versus import Side

# Guesses of a peer's own speculative decoding.
NUM_GUESSES = 4


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


class Peer(Protocol):
    """One way to run a system. name: name in tables. version: "" if the system is missing."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def missing(self) -> str:
        """Return in one line why the system cannot run here; "" if it can."""
        ...

    def started(self, setup: Setup) -> AbstractContextManager[Side]:
        """Start the system; it serves until the end of the block. Raises PeerError."""
        ...


def not_installed(module: str, name: str) -> str:
    """Return in one line that a module is missing; "" if it is there."""
    if importlib.util.find_spec(module) is None:
        return f"{name} is not installed: pip install '.[bench]'"
    return ""


def draft_of(setup: Setup, name: str) -> str:
    """Return the draft's file. Raises PeerError if there is none."""
    if setup.draft is None:
        raise PeerError(f"{name}: needs a draft model")
    return str(setup.draft)


@contextlib.contextmanager
def serving(
    name: str,
    command: Sequence[str],
    port: int,
    limit_s: float,
    *,
    health: str = "",
    environ: Mapping[str, str] = {},
) -> Iterator[int]:
    """Run a command that listens on a port until the end of the block; yields its process id.

    health: path of its health check, which is awaited, too, for a system that listens before it can
    serve. environ: added to that of this process. Raises PeerError.
    """
    process = subprocess.Popen(
        command,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_open(name, port, process, limit_s, health)
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


def wait_until_open(
    name: str, port: int, process: subprocess.Popen[bytes], limit_s: float, health: str = ""
) -> None:
    """Wait until a process listens, and is healthy if it has a health check.

    Raises PeerError if it ends first or exceeds limit_s.
    """
    give_up_at = time.monotonic() + limit_s
    while time.monotonic() < give_up_at:
        with contextlib.suppress(OSError, HTTPException):
            if _is_open(port, health):
                return
        if process.poll() is not None:
            raise PeerError(f"{name}: exited with code {process.returncode} while starting")
        time.sleep(0.1)
    raise PeerError(f"{name}: did not listen within {limit_s:.0f} s")


def _is_open(port: int, health: str) -> bool:
    with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=10.0)) as asking:
        asking.connect()
        if not health:
            return True
        asking.request("GET", health)
        return asking.getresponse().status == HTTPStatus.OK
