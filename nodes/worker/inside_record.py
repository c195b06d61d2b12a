"""What is known of a draft model inside targets of this machine, kept in the cache folder.

KEY.json has a verdict. Each process that may load the draft has a file KEY.RANDOM.mark beside it,
which it holds locked. A mapped byte of that file says whether the draft is at work, and outlives
the process. So the next process sees that the draft was at work when another one died.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import secrets
import time
from pathlib import Path
from typing import Final, Literal

from airdraft.mesh.whole_files import write_whole
from airdraft.nodes.catalog import disk
from airdraft.nodes.engine.cores import read

# untried: nothing is known. good: it was tried in a process of its own. bad: that trial failed.
# ended: it was at work when a target's process died. slow: it did not pay.
State = Literal["untried", "good", "bad", "ended", "slow"]

# What verdicts become after a day: other requests may come then, and a trial may have failed for
# lack of memory.
_AFTER_A_DAY: Final[dict[State, State]] = {"slow": "good", "bad": "untried"}
_DAY_S: Final = 24 * 3600.0
_MARK_BYTES: Final = 64
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def key_of(*parts: object) -> str:
    """Returns the key of a record, a hash of all that decides how a draft runs."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


class InsideRecord:
    """The record of a draft, and the mark of this process. As a context it marks work."""

    def __init__(self, folder: Path, key: str, boot_id: str | None = None) -> None:
        """Makes the mark, and reads and removes those of processes that have died.

        boot_id: of the machine, which changes when it starts. Raises OSError.
        """
        self.path = folder / f"{key}.json"
        self._folder, self._key = folder, key
        boot = (read(_BOOT_ID) if boot_id is None else boot_id).encode()[: _MARK_BYTES - 1]
        self._mark = folder / f"{key}.{secrets.token_hex(8)}.mark"
        with self._locked():
            if self._take_stale(boot):
                self._write("ended", "it was at work when the process of an earlier target died")
            try:
                with self._mark.open("x+b") as file:
                    fcntl.flock(file, fcntl.LOCK_EX)
                    file.write((b"\0" + boot).ljust(_MARK_BYTES, b"\0"))
                    file.flush()
                    # It has a descriptor of its own, which keeps the lock.
                    self._bytes = mmap.mmap(file.fileno(), _MARK_BYTES)
            except BaseException:
                self.release()
                raise

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return disk.locked(self._folder, lambda *_: None)

    def _take_stale(self, boot: bytes) -> bool:
        """Remove the marks of dead processes; whether the draft was at work in one of them.

        If the machine was started since, that was the end of them all.
        """
        was_at_work = False
        for mark in self._folder.glob(f"{self._key}.*.mark"):
            with contextlib.suppress(FileNotFoundError), mark.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                found = file.read(_MARK_BYTES)
                is_same_boot = bool(boot) and found[1:].rstrip(b"\0") == boot
                was_at_work |= is_same_boot and found[:1] == b"\1"
                mark.unlink()
        return was_at_work

    # -- the mark --------------------------------------------------------------------------------

    def __enter__(self) -> None:
        self._bytes[0] = 1

    def __exit__(self, *_: object) -> None:
        self._bytes[0] = 0

    def release(self) -> None:
        """Remove the mark: however this process ends from now on, the draft is not accused."""
        self._mark.unlink(missing_ok=True)

    # -- the verdict -----------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The verdict. That of a slow draft, or of a trial that failed, holds for a day."""
        state, _, at = self._read()
        if state in _AFTER_A_DAY and not 0.0 <= time.time() - at < _DAY_S:
            return _AFTER_A_DAY[state]
        return state

    @property
    def reason(self) -> str:
        """Why the draft is bad or slow, or how it ended a process."""
        return self._read()[1]

    def store(self, state: State, reason: str = "") -> None:
        """Keep a verdict, unless a target has come to know worse of the draft. Raises OSError."""
        with self._locked():
            if self.state not in ("bad", "ended"):
                self._write(state, reason)

    def _write(self, state: State, reason: str) -> None:
        data = {"state": state, "reason": reason, "at": time.time()}
        write_whole(self.path, json.dumps(data).encode(), 0o644)

    def _read(self) -> tuple[State, str, float]:
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            found: tuple[State, str, float] = data["state"], str(data["reason"]), float(data["at"])
        except (OSError, ValueError, KeyError, TypeError):
            return "untried", "", 0.0
        return found
