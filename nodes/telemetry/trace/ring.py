"""Keeps the last records with their numbers, and returns them in parts that fit a message."""

from collections import deque
from dataclasses import dataclass
from typing import Final

from nodes.messages import TraceReply
from nodes.telemetry.trace.records import Record, num_entries, to_line

# Some 5 to 10 MB: a minute of 100 passes a second with 4 streams each.
MAX_ENTRIES: Final = 32_768


@dataclass(slots=True)
class _Kept:
    """A record, or its line once it was requested."""

    record: Record | bytes
    num_entries: int


class Ring:
    """Keeps records up to max_entries entries in all, and drops the oldest ones."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._records: deque[_Kept] = deque()
        self._num_entries = 0
        # The number of the last record; the first one has number 1.
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
        """Drop all records, but continue their numbers."""
        self._records.clear()
        self._num_entries = 0

    def after(self, number: int, max_bytes: int, request_id: int = 0) -> TraceReply:
        """Return the records after a number that fit max_bytes, without any larger than that."""
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
        return TraceReply(request_id, at - 1, num_lost, at <= self.last, b"".join(lines))

    def _line(self, number: int, kept: _Kept) -> bytes:
        if not isinstance(kept.record, bytes):
            kept.record = to_line(number, kept.record)
        return kept.record
