"""Guesses that wait for the link of a draft node. Pure.

A link that is busy with one message takes the next one later; what is guessed until then goes along
in it. So a slow link carries few large messages instead of many small ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from nodes.draft.followed import Guesses
from nodes.messages import MAX_WINDOW
from nodes.stream import StreamId


@dataclass(slots=True)
class Outbox:
    """At most one part a stream: later guesses of its chain join it, those of a newer chain take
    its place."""

    _parts: dict[StreamId, Guesses] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, parts: Iterable[Guesses]) -> None:
        for part in parts:
            known = self._parts.get(part.stream_id)
            if known is not None and (known.follow, known.chain) == (part.follow, part.chain):
                part = replace(
                    known,
                    token_ids=known.token_ids + part.token_ids,
                    chances=known.chances + part.chances,
                )
            self._parts[part.stream_id] = part

    def take(self) -> tuple[Guesses, ...]:
        """All that waits, as far as one message holds it; the rest waits for the next one."""
        parts, self._parts = self._parts, {}
        for stream_id, part in parts.items():
            if len(part.token_ids) > MAX_WINDOW:
                self._parts[stream_id] = _cut(part, MAX_WINDOW, len(part.token_ids))
        return tuple(_cut(part, 0, MAX_WINDOW) for part in parts.values())

    def clear(self) -> None:
        self._parts.clear()


def _cut(part: Guesses, first: int, end: int) -> Guesses:
    return replace(
        part,
        start=part.start + first,
        token_ids=part.token_ids[first:end],
        chances=part.chances[first:end],
    )
