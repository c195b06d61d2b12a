"""Files that must appear complete or not at all: locks, temporary folders, partial downloads."""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from airdraft.mesh.whole_files import write_whole

# A disk with less is full: files of models are larger.
LEAST_FREE_BYTES = 1 << 20


@contextmanager
def locked(folder: Path, report: Callable[[str, int, None], None]) -> Iterator[None]:
    """Make the folder and hold its lock; reports before it waits for another process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another pull", 0, None)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """Make a temporary folder inside `folder`, which is deleted at the end with its contents.

    The caller must hold the lock. So every older one is a leftover of a process that died, and is
    deleted first.
    """
    for leftover in folder.glob("tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f"tmp-{os.getpid()}-", dir=folder))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def is_full(folder: Path) -> bool:
    """Whether the disk of a folder is full, which a library that failed to write does not say."""
    return shutil.disk_usage(folder).free < LEAST_FREE_BYTES


def existing(path: Path) -> Path:
    """Return the path or its nearest parent that exists."""
    return path if path.exists() else existing(path.parent)


def sync(path: Path) -> None:
    """Wait until a file is written to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Begun:
    """A partial download that the next pull continues. Callers must hold the lock of its folder.

    path: The file with the bytes so far. A JSON file beside it names their source, and has what is
    to be known of them for going on with it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._note = path.with_name(path.name + ".json")

    @property
    def num_bytes(self) -> int:
        """The size of the partial file, from whichever source it comes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def noted(self, source: str) -> str:
        """Return what was noted of the bytes so far; "" if they come from another source."""
        try:
            note = json.loads(self._note.read_bytes())
            return str(note["progress"]) if note["source"] == source else ""
        except (OSError, ValueError, TypeError, KeyError):
            return ""

    def open(self, source: str, kept: int, progress: str = "") -> IO[bytes]:
        """Open the file to append after its first `kept` bytes, which come from this source."""
        file = self.path.open("ab")
        file.truncate(kept)
        file.seek(kept)
        self.note(source, progress)
        return file

    def note(self, source: str, progress: str) -> None:
        note = json.dumps({"source": source, "progress": progress})
        write_whole(self._note, note.encode(), 0o644)

    def discard(self) -> None:
        for path in (self._note, self.path):
            path.unlink(missing_ok=True)
