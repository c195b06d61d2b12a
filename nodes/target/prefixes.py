"""A store in host memory for text prefixes that have left the engine's cache."""

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
    """Saved prefixes within `max_bytes`; the least recently used one is dropped first.

    A prefix is used only for streams of the owner that left it: the speed of reading a prompt would
    otherwise reveal to others how that owner's texts begin.
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
        """Returns the entry with the longest common prefix and its length; it counts as used."""
        best, found = 0, None
        for entry in self._of(owner):
            shared = common_prefix(entry.token_ids, token_ids)
            # Among equals the shortest entry is best, because all of it is restored before a cut.
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
        """Keep the saved positions of token_ids; returns False if they exceed the budget alone.

        Shorter prefixes of the same text are dropped, because this entry contains them.
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
