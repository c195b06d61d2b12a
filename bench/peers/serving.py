"""Processes of systems that serve: started, awaited and stopped, with settings for all alike."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

_STOP_LIMIT_S = 10.0


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

    @property
    def num_cells(self) -> int:
        return self.num_slots * self.cells_a_slot

    def needed_draft(self, name: str) -> str:
        """Return the draft's file for a system. Raises PeerError if there is none."""
        if self.draft is None:
            raise PeerError(f"{name}: needs a draft model")
        return str(self.draft)


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
        try:
            process.wait(_STOP_LIMIT_S)
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
