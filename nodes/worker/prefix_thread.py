"""The thread that keeps saved texts on the disk, beside the engine's passes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from airdraft.nodes.engine.protocol import SavedPrefix, common_prefix
from airdraft.nodes.worker.prefix_files import (
    DamagedPrefixError,
    PrefixFile,
    delete_others,
    delete_unused,
    found_prefixes,
    make_room,
    read_prefix,
    used,
    write_prefix,
)
from airdraft.nodes.worker.stream import key_of, tenant_of

logger = logging.getLogger(__name__)

# What is shorter is read again within some seconds, and the texts of short chats would wear out a
# flash memory: a token has 28 KB in Qwen2.5-Coder 1.5B.
LEAST_TOKENS: Final = 1024
# A conversation is saved at each turn, and only the last one is wanted. So a text is written once
# it was left alone for a minute, but soon if less than half of it is on the disk: then a power cut
# costs a working agent half of its text at most, and all that is written is some times the text.
_SOON_S: Final = 10.0
_IDLE_S: Final = 60.0
_MOST_AGE_S: Final = 30 * 86400.0
_NICENESS: Final = 10
# A MB takes some 2 ms. Without pauses the longest gap between tokens was 166 ms while a text of 172
# MB was written; a hundredth of all gaps was over 93 ms (two cores of a shared Xeon, 2026-12-03).
_PAUSE_S: Final = 0.004
_OWNER_BYTES: Final = 8
_NOT_KEPT: Final = "texts are not kept on the disk: %s"


@dataclass(frozen=True, slots=True)
class PrefixFolder:
    """Where a target keeps texts on the disk.

    root: the folder of all targets of this user. kind: of the state, which no other engine can
    restore. most_bytes: of all files below root. mesh: whose owners these are, since each mesh has
    its own names; "" for the private one of this user. durable: what the names of owners begin with
    that stay the same over restarts; "" if all do.
    """

    root: Path
    kind: str
    most_bytes: int
    mesh: str = ""
    durable: str = ""


@dataclass(slots=True)
class _Candidate:
    """A text that may be written. saved: is gone when the text has left the memory."""

    owner: str
    token_ids: Sequence[int]
    saved: weakref.ref[SavedPrefix]
    due_at: float


class PrefixThread:
    """Writes and reads saved texts in a thread.

    loaded: called there with a file that was read, and what it has; None if it cannot be used.
    """

    def __init__(
        self, place: PrefixFolder, loaded: Callable[[PrefixFile, SavedPrefix | None], None]
    ) -> None:
        """Raises OSError."""
        self._place, self._loaded = place, loaded
        kind = hashlib.sha256(place.kind.encode()).hexdigest()[:32]
        self._folder = place.root / kind
        place.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        delete_unused(place.root, _MOST_AGE_S)
        self._changed = threading.Condition()
        # By path. The engine's thread looks here, too.
        self._files = {file.path: file for file in found_prefixes(self._folder)}
        self._candidates: list[_Candidate] = []
        self._wanted = deque[PrefixFile]()
        # The keys whose texts may stay, once they are told.
        self._keys: Collection[str] | None = None
        self._is_over = self._has_warned = False
        # Pieces that were read; while they come the target makes progress.
        self.num_read = 0

    # -- for the engine's thread -------------------------------------------------------------------

    def longest(self, owner: str, token_ids: Sequence[int]) -> tuple[PrefixFile, int] | None:
        """Returns the file of an owner with the longest common beginning, and its length."""
        hashed = self._hashed(key_of(owner), owner)
        with self._changed:
            files = [file for file in self._files.values() if file.owner == hashed]
        best, found = 0, None
        for file in files:
            shared = common_prefix(file.token_ids, token_ids)
            if shared >= file.shortest and shared > best:
                best, found = shared, file
        return None if found is None else (found, best)

    def fetch(self, file: PrefixFile) -> None:
        """Have a file read."""
        with self._changed:
            self._wanted.append(file)
            self._changed.notify()

    def keep(self, owner: str, token_ids: Sequence[int], saved: SavedPrefix) -> None:
        """Write a text some time later, if it is in memory then."""
        if len(token_ids) < LEAST_TOKENS or not tenant_of(owner).startswith(self._place.durable):
            return
        found = self.longest(owner, token_ids)
        is_new = found is None or 2 * found[1] < len(token_ids)
        due_at = time.monotonic() + (_SOON_S if is_new else _IDLE_S)
        with self._changed:
            self._candidates = [each for each in self._candidates if each.saved() is not None]
            candidate = _Candidate(owner, token_ids, weakref.ref(saved), due_at)
            self._candidates.append(candidate)
            self._changed.notify()

    def forget_others(self, keys: Collection[str]) -> None:
        """Delete what other owners of this mesh have left, of all models."""
        with self._changed:
            self._keys = keys
            self._changed.notify()

    def _hashed(self, *words: str) -> str:
        """Returns how the names of files begin. words: the key, and the owner."""
        mesh = self._place.mesh
        digests = [
            hashlib.blake2b(word.encode(), digest_size=_OWNER_BYTES).hexdigest()
            for word in (mesh, *(f"{mesh}\0{word}" for word in words))
        ]
        return "".join(digests)

    # -- the thread --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled; what is being read is finished first."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        thread = threading.Thread(
            target=self._run, args=(loop, ended), name="prefixes", daemon=True
        )
        thread.start()
        try:
            await ended
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify()
            await asyncio.to_thread(thread.join)

    def _run(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        try:
            while (work := self._next()) is not None:
                work()
        except BaseException as error:  # noqa: BLE001 - handed to run(), which raises it
            loop.call_soon_threadsafe(_fail, ended, error)

    def _next(self) -> Callable[[], None] | None:
        """Returns what is to be done next, and None once the thread is to end."""
        with self._changed:
            while not self._is_over:
                if self._wanted:
                    file = self._wanted.popleft()
                    return lambda: self._read(file)
                if (keys := self._keys) is not None:
                    self._keys = None
                    return lambda: self._forget_others(keys)
                now = time.monotonic()
                due = min(self._candidates, key=lambda each: each.due_at, default=None)
                if due is not None and due.due_at <= now:
                    self._candidates.remove(due)
                    return lambda: self._write(due)
                self._changed.wait(None if due is None else due.due_at - now)
        return None

    def _read(self, file: PrefixFile) -> None:
        saved = None
        try:
            saved = read_prefix(file, self._count)
            used(file)
        except (DamagedPrefixError, OSError) as error:
            logger.warning("a saved text is read anew, since %s: %s", file.path.name, error)
            self._forget([file.path])
            with contextlib.suppress(OSError):
                file.path.unlink(missing_ok=True)
        self._loaded(file, saved)

    def _pause(self) -> None:
        """Leave memory and cores to the engine between two pieces; there is no hurry.

        Raises InterruptedError once the thread is to end, since a slow disk may take long.
        """
        if self._is_over:
            raise InterruptedError
        time.sleep(_PAUSE_S)

    def _count(self) -> None:
        self.num_read += 1

    def _write(self, candidate: _Candidate) -> None:
        saved, token_ids = candidate.saved(), candidate.token_ids
        # A longer text has taken its place, or others its memory.
        if saved is None:
            return
        found = self.longest(candidate.owner, token_ids)
        owner = self._hashed(key_of(candidate.owner), candidate.owner)
        if found is not None and found[1] == len(token_ids):
            used(found[0])
            return
        try:
            num_bytes = saved.num_bytes + 4 * len(token_ids)
            if num_bytes > self._place.most_bytes:
                return
            self._forget(make_room(self._place.root, self._place.most_bytes, num_bytes))
            file = write_prefix(self._folder, owner, token_ids, saved, self._pause)
        except OSError as error:
            if not (self._has_warned or self._is_over):
                self._has_warned = True
                logger.warning(_NOT_KEPT, error)
            return
        with self._changed:
            shorter = [
                each
                for each in self._files.values()
                if each.owner == owner
                and len(each.token_ids) < len(token_ids)
                and token_ids[: len(each.token_ids)] == each.token_ids
                and len(each.token_ids) >= file.shortest
            ]
            self._files[file.path] = file
        for each in shorter:
            with contextlib.suppress(OSError):
                each.path.unlink(missing_ok=True)
        self._forget([each.path for each in shorter])

    def _forget_others(self, keys: Collection[str]) -> None:
        with contextlib.suppress(OSError):
            stay = [self._hashed(key) for key in keys]
            self._forget(delete_others(self._place.root, self._hashed(), stay))

    def _forget(self, paths: Sequence[Path]) -> None:
        with self._changed:
            for path in paths:
                self._files.pop(path, None)


def open_prefixes(
    place: PrefixFolder | None, loaded: Callable[[PrefixFile, SavedPrefix | None], None]
) -> PrefixThread | None:
    """Returns a PrefixThread; None, which the log tells, if the disk cannot be used."""
    if place is None:
        return None
    try:
        return PrefixThread(place, loaded)
    except OSError as error:
        logger.warning(_NOT_KEPT, error)
        return None


def _fail(ended: asyncio.Future[None], error: BaseException) -> None:
    if not ended.done():
        ended.set_exception(error)
