"""Guesses that wait for the link of a draft node. Pure.

While the link is busy with one message, new guesses are collected for the next one. So a slow link,
or a small share of a medium, carries few large messages instead of many small ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace

from airdraft.nodes.draft.followed import Guesses
from airdraft.nodes.messages import MAX_STREAMS_PER_MESSAGE, MAX_WINDOW


@dataclass(slots=True)
class Outbox:
    """Holds at most one part a chain, which later guesses of the chain extend.

    rate_bps: the rate that guesses may use, at first that of the whole link; 0 where it is not
    known or not limited. frame_s: seconds that a message takes in addition to its bits where
    nobody else uses the link. free_at: when the next message may go.
    """

    rate_bps: float = 0.0
    frame_s: float = 0.0
    free_at: float = 0.0
    # By stream and chain.
    _parts: dict[tuple[int, int], Guesses] = field(default_factory=dict)
    _whole_bps: float = field(init=False)

    def __post_init__(self) -> None:
        self._whole_bps = self.rate_bps

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, parts: Iterable[Guesses], live: Mapping[int, Set[int]]) -> None:
        """Add guesses. live: the chains of each of their streams that are not over."""
        for part, token_ids in parts:
            for stream_id, chain in list(self._parts):
                if stream_id == part.stream_id and chain not in live[stream_id]:
                    del self._parts[stream_id, chain]
            known, before = self._parts.get((part.stream_id, part.chain), (None, ()))
            if known is not None and known.follow == part.follow:
                part = replace(known, chances=known.chances + part.chances)
                token_ids = before + token_ids
            self._parts[part.stream_id, part.chain] = part, token_ids

    def take(self) -> tuple[Guesses, ...]:
        """Remove and return as many waiting guesses as one message may hold."""
        taken = list(self._parts.items())[:MAX_STREAMS_PER_MESSAGE]
        for place, guesses in taken:
            del self._parts[place]
            if (num_guesses := len(guesses[1])) > MAX_WINDOW:
                self._parts[place] = _cut(guesses, MAX_WINDOW, num_guesses)
        return tuple(_cut(guesses, 0, MAX_WINDOW) for _, guesses in taken)

    def allot(self, rate_bps: float) -> None:
        """Set the rate that guesses may use."""
        self.rate_bps = rate_bps

    def sent(self, num_bits: int, now: float) -> None:
        """Record that a message was sent. num_bits: its size with all headers on the link."""
        if self.rate_bps:
            # A frame takes longer on a share of a link. Where the rate is to be measured, the share
            # is not known here: the first rate is the highest one, and no share of anything.
            slowness = self._whole_bps / self.rate_bps if self._whole_bps else 1.0
            self.free_at = now + self.frame_s * slowness + num_bits / self.rate_bps

    def clear(self) -> None:
        self._parts.clear()


def _cut(guesses: Guesses, first: int, end: int) -> Guesses:
    part, token_ids = guesses
    cut = replace(part, start=part.start + first, chances=part.chances[first:end])
    return cut, token_ids[first:end]
