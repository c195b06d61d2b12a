"""The last records, numbered, in parts that fit a message."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from nodes.telemetry.trace.records import Record, num_entries, to_line

# Some 5 to 10 MB: a minute of 100 passes a second with 4 streams each.
MAX_ENTRIES: Final = 32_768


@dataclass(frozen=True, slots=True)
class Part:
    """Records as lines. last: the number to go on after; the others as in TraceReply."""

    last: int
    num_lost: int
    has_more: bool
    lines: bytes


@dataclass(slots=True)
class _Kept:
    """A record, or its line once somebody has asked for it."""

    record: Record | bytes
    num_entries: int


class Ring:
    """Forgets the oldest records when those that are kept have more than max_entries."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._records: deque[_Kept] = deque()
        self._num_entries = 0
        # Number of the last record; the first one ever is 1.
        self.last = 0

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: Record) -> None:
        self.last += 1
        kept = _Kept(record, num_entries(record))
        self._records.append(kept)
        self._num_entries += kept.num_entries
        while self._num_entries > self._max_entries:
            self._num_entries -= self._records.popleft().num_entries

    def clear(self) -> None:
        """Forget all records, but not how many there were."""
        self._records.clear()
        self._num_entries = 0

    def after(self, number: int, max_bytes: int) -> Part:
        """Records after a number, as many as max_bytes hold; what is larger alone is left out."""
        first = self.last - len(self._records) + 1
        at = min(max(number + 1, first), self.last + 1)
        num_lost = max(0, at - number - 1)
        lines: list[bytes] = []
        num_bytes = 0
        while at <= self.last:
            line = self._line(at, self._records[at - first])
            if num_bytes + len(line) > max_bytes:
                if lines:
                    break
                num_lost += 1
            else:
                lines.append(line)
                num_bytes += len(line)
            at += 1
        return Part(at - 1, num_lost, at <= self.last, b"".join(lines))

    def _line(self, number: int, kept: _Kept) -> bytes:
        if not isinstance(kept.record, bytes):
            kept.record = to_line(number, kept.record)
        return kept.record
