"""The parts of models that a stage can run: their files, and what becomes a model of them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import airdraft.nodes.catalog.disk as disk
from airdraft.nodes.engine.llama_abi import hash_file
from airdraft.nodes.engine.protocol import EngineError
from airdraft.nodes.engine.split.stage import StageModel
from airdraft.policies.latency import CostTable

# As Progress of engine/calibrate.py.
ReportProgress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class Part:
    """Blocks `first` to before `end` of a model, and the name of their file.

    model_hash: the SHA-256 of the whole model's file.
    """

    model_hash: str
    file: str
    first: int
    end: int

    def is_same_as(self, other: Part) -> bool:
        """Whether both are the same blocks, whatever their files are called."""
        own = self.model_hash, self.first, self.end
        return own == (other.model_hash, other.first, other.end)


class Parts(Protocol):
    """What a stage can run. Methods that may take minutes say so, and run in a thread.

    fixed: the only part that it runs; None if it runs any. progress: is told how far a transfer is.
    """

    fixed: Part | None
    progress: ReportProgress

    def free_bytes(self, loaded: Part | None) -> int:
        """Returns the bytes that a part could take in memory. loaded: what would leave it."""

    def measure(self, sample: bytes, file_bytes: int) -> CostTable:
        """Returns what passes of a sample take, as StageFactsRequest has it; it takes some seconds.

        Raises EngineError.
        """

    def refusal(self, part: Part) -> str:
        """Returns why a part is not run here, which does not depend on its file; "" if it is."""

    def find(self, part: Part) -> Path | None:
        """Returns the file of a part; None if this machine has neither it nor the whole model, of
        which it would be cut in minutes. Raises EngineError."""

    def place(self, part: Part) -> Path:
        """Returns where the file of a part goes that a target sends. Raises EngineError."""

    def open(self, path: Path, max_sequences: int, *, keeps_states: bool) -> StageModel:
        """Load a part, which may take minutes. Raises EngineError."""

    def most_saved_bytes(self) -> int:
        """Returns what saved texts may take in memory, beside the part that is loaded now."""


class Incoming:
    """A file that arrives in pieces, which may go on where an earlier attempt ended."""

    def __init__(self, place: Path) -> None:
        """place: where the whole file will be. Raises EngineError if nothing can be written."""
        self._place, self._made = place, place.with_name(f"{place.name}.incoming")
        with _told(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            # A byte that is missing in the middle would be found out by the hash at the end.
            self._file = self._made.open("ab")
            self.size = self._file.tell()

    def check_room(self, total: int) -> None:
        """Raise EngineError if the disk has no room for the rest of a file of so many bytes."""
        free = shutil.disk_usage(self._place.parent).free
        if total - self.size > free:
            raise EngineError(
                f"{self._place.name} has {total / 1e9:.2f} GB, and the disk has {free / 1e9:.2f} "
                f"GB free"
            )

    def begin_anew(self) -> int:
        """Forget what an earlier attempt left; returns the new size, 0."""
        self._file.truncate(0)
        self.size = 0
        return 0

    def add(self, data: bytes) -> None:
        """Add the next piece. Raises EngineError."""
        with _told(self._place):
            self._file.write(data)
        self.size += len(data)

    def finish(self, sha256: str) -> Path:
        """Returns the whole file. Raises EngineError if it has another hash, and forgets it."""
        with _told(self._place):
            self._file.close()
            if hash_file(self._made) != sha256:
                self._made.unlink()
                raise EngineError(f"{self._place.name} arrived damaged: it is fetched again")
            disk.sync(self._made)
            os.replace(self._made, self._place)
        return self._place

    def close(self) -> None:
        """Keep what has arrived for another time."""
        self._file.close()


@contextlib.contextmanager
def _told(place: Path) -> Iterator[None]:
    """Turn errors of the file system in the block into one line."""
    try:
        yield
    except OSError as error:
        raise EngineError(f"{place} cannot be written: {error.strerror}") from error
