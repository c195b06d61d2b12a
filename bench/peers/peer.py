"""What the harness asks of a peer: to be there or say why not, to start, to serve, to stop."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.load.asking import Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The same for all who are compared. target, draft: GGUF files; num_slots: requests that are
    served at a time, each with so many cells; num_threads: of an engine.
    """

    target: Path
    draft: Path | None
    num_slots: int
    num_threads: int
    cells_a_slot: int = 2048


@dataclass(frozen=True, slots=True)
class Running:
    """A system that serves. pid: of the process whose tree is all of it."""

    endpoint: Endpoint
    pid: int


class Peer(Protocol):
    """One way to run one system. name: as in tables. version: of what runs, "" if it is missing."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def missing(self) -> str:
        """Why it cannot run here, in one line; "" if it can."""
        ...

    def started(self, setup: Setup) -> AbstractContextManager[Running]:
        """Serving until the end of the block. Raises PeerError."""
        ...


class PeerError(Exception):
    """A peer did not start or does not serve; the text says which and why."""
