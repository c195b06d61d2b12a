"""A node's reports to the process that started it, as lines on standard error.

In the other direction there is standard input. When it closes, the node ends, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from nodes.engine.llama_abi import hash_file
from nodes.service.runtime import stdin_closed

PROGRESS: Final = "progress: "
JOINED: Final = "joined"
HASHED: Final = "hashed: "


class Parent:
    """The process that started this node for its own mesh, and restarts it when it ends.

    hashed: The previous node's report about its model file. The file is not hashed again if neither
    the file nor its place has changed since.
    """

    def __init__(self, hashed: str = "") -> None:
        self._hashed = hashed

    def progress(self, label: str, done: int, total: int | None) -> None:
        _write_line(f"{PROGRESS}{label} {done} {'-' if total is None else total}")

    def joined(self) -> None:
        _write_line(JOINED)

    def hash_file(self, path: Path) -> str:
        """Return the SHA-256 of a file in hexadecimal digits. Raises OSError."""
        # Taken before the file is read, so that the next node notices changes made meanwhile.
        state = _state_of(path)
        known, _, sha256 = self._hashed.partition("=")
        if known != state:
            sha256 = hash_file(path)
        _write_line(f"{HASHED}{state}={sha256}")
        return sha256


@contextlib.asynccontextmanager
async def parent_gone(parent: Parent | None) -> AsyncIterator[asyncio.Future[Any]]:
    """Yield a future that is done when the parent is gone; without a parent it is never done."""
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[Any] = loop.create_future()
    if parent is not None:
        gone = asyncio.ensure_future(stdin_closed())
    try:
        yield gone
    finally:
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)


def _state_of(path: Path) -> str:
    """Return a text that changes whenever a file is written, replaced or renamed."""
    found = path.stat()
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"


def _write_line(line: str) -> None:
    # If the parent is gone, the line is lost; the end of standard input then stops the node.
    with contextlib.suppress(OSError):
        # One write for each line, because the engine's thread writes lines, too.
        os.write(sys.stderr.fileno(), (line + "\n").encode())
