"""What a node says to the process that started it: lines on its standard error.

The other way there is standard input, whose end tells a node to end as well.
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
    """The process that started this node for its own mesh, and starts it again when it ends.

    hashed: what the node before this one said of its model file. A file is not read again from end
    to end if neither it nor its place has changed since.
    """

    def __init__(self, hashed: str = "") -> None:
        self._hashed = hashed

    def progress(self, label: str, done: int, total: int | None) -> None:
        _say(f"{PROGRESS}{label} {done} {'-' if total is None else total}")

    def joined(self) -> None:
        _say(JOINED)

    def hash_file(self, path: Path) -> str:
        """SHA-256 of a file, hexadecimal. Raises OSError."""
        # Before it is read: what is written meanwhile must be seen the next time.
        state = _state_of(path)
        known, _, sha256 = self._hashed.partition("=")
        if known != state:
            sha256 = hash_file(path)
        _say(f"{HASHED}{state}={sha256}")
        return sha256


@contextlib.asynccontextmanager
async def parent_gone(parent: Parent | None) -> AsyncIterator[asyncio.Future[Any]]:
    """A future that is done when the parent is gone; never for a node that has none."""
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
    """What changes whenever a file is written, replaced or renamed, as the kernel has it."""
    found = path.stat()
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"


def _say(line: str) -> None:
    # Without a parent nobody has to know; the end of standard input says that it is gone.
    with contextlib.suppress(OSError):
        # In one piece: the engine's thread says something, too.
        os.write(sys.stderr.fileno(), (line + "\n").encode())
