"""Prefixes of texts that have left the engine's cache, kept in host memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nodes.engine.prefix import common_prefix
from nodes.engine.protocol import SavedPrefix


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    owner: str
    token_ids: Sequence[int]
    saved: SavedPrefix


class PrefixStore:
    """Saved prefixes within `max_bytes`, least recently used out.

    What one owner's streams left is given to that owner's streams alone: how fast a prompt is read
    would tell others what it begins with.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        # Least recently used first.
        self._entries: dict[_Entry, None] = {}
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_on(self) -> bool:
        return self._max_bytes > 0

    def longest(self, owner: str, token_ids: Sequence[int]) -> tuple[SavedPrefix, int] | None:
        """What begins most like token_ids, and how many of its tokens do; used from now on."""
        best, found = 0, None
        for entry in self._of(owner):
            shared = common_prefix(entry.token_ids, token_ids)
            # Of equals the shortest, for all of it is restored first.
            if shared > best or (
                found and shared == best and entry.saved.length < found.saved.length
            ):
                best, found = shared, entry
        if found is None:
            return None
        self._use(found)
        return found.saved, best

    def holds(self, owner: str, token_ids: Sequence[int]) -> bool:
        """Whether an entry begins with all of token_ids; it counts as used."""
        for entry in self._of(owner):
            if common_prefix(entry.token_ids, token_ids) == len(token_ids):
                self._use(entry)
                return True
        return False

    def put(self, owner: str, token_ids: Sequence[int], saved: SavedPrefix) -> bool:
        """Keep the positions of token_ids; False if they alone are over the budget.

        Shorter prefixes of the same text go: all that they have is in this one.
        """
        if saved.num_bytes > self._max_bytes:
            return False
        for entry in self._of(owner):
            if common_prefix(entry.token_ids, token_ids) == len(entry.token_ids):
                self._drop(entry)
        self._entries[_Entry(owner, token_ids, saved)] = None
        self.num_bytes += saved.num_bytes
        while self.num_bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))
        return True

    def clear(self) -> None:
        self._entries.clear()
        self.num_bytes = 0

    def _of(self, owner: str) -> list[_Entry]:
        return [entry for entry in self._entries if entry.owner == owner]

    def _use(self, entry: _Entry) -> None:
        self._entries[entry] = self._entries.pop(entry)

    def _drop(self, entry: _Entry) -> None:
        del self._entries[entry]
        self.num_bytes -= entry.saved.num_bytes
