"""Files that must appear complete or not at all: locks and temporary folders."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


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
