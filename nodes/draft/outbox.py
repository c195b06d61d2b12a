"""Guesses that wait for the link of a draft node. Pure.

A link that is busy with one message takes the next one later; what is guessed until then goes along
in it. So a slow link, or a small share of a medium, carries few large messages instead of many
small ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from nodes.draft.followed import Guesses
from nodes.messages import MAX_WINDOW
from nodes.worker.stream import StreamId


@dataclass(slots=True)
class Outbox:
    """At most one part a stream: later guesses of its chain join it, those of a newer chain take
    its place.

    rate_bps: of the link, as far as guesses may use it; 0 where that is not known or never matters.
    frame_s: what a message takes whatever its size. free_at: when the next message may go.
    """

    rate_bps: float = 0.0
    frame_s: float = 0.0
    free_at: float = 0.0
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

    def allot(self, rate_bps: float) -> None:
        """Guesses may use so much of the link from now on; messages take as much longer for it."""
        if self.rate_bps:
            self.frame_s *= self.rate_bps / rate_bps
        self.rate_bps = rate_bps

    def sent(self, num_bits: int, now: float) -> None:
        """A message has gone, with all that is around it on the link."""
        if self.rate_bps:
            self.free_at = now + self.frame_s + num_bits / self.rate_bps

    def clear(self) -> None:
        self._parts.clear()


def _cut(part: Guesses, first: int, end: int) -> Guesses:
    return replace(
        part,
        start=part.start + first,
        token_ids=part.token_ids[first:end],
        chances=part.chances[first:end],
    )
