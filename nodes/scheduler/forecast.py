"""What streams get from a target, and would get from it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from nodes.scheduler.stream import Stream
from nodes.worker.stream import StreamId
from policies.plan import ENTRY_BITS, HEADER_BITS

if TYPE_CHECKING:
    from nodes.scheduler.scheduler import Scheduler


class Forecast:
    """What streams get from a target, and would get from it: predicted seconds a token."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def plain_s(self, newcomers: Sequence[Stream], now: float) -> float:
        """Seconds of a plain pass of the target's streams and of those."""
        scheduler = self._scheduler
        num_streams = scheduler.num_streams + len(newcomers)
        if scheduler.target is None or not num_streams:
            return 0.0
        cells = sum(len(stream.token_ids) for stream in [*scheduler.streams(), *newcomers])
        return scheduler.target.expected_s(num_streams, cells, cells / num_streams, now)

    def token_s(self, stream_ids: Collection[int], now: float) -> float:
        """Seconds a token of some of the target's streams, on average."""
        streams = [self._scheduler.stream(StreamId(stream_id)) for stream_id in stream_ids]
        known = [stream for stream in streams if stream is not None]
        tokens = _mean(stream.tokens_a_pass for stream in known)
        return self.plain_s((), now) / tokens

    def token_s_of_newcomers(self, newcomers: Sequence[Stream], now: float) -> float:
        """The same of streams that are elsewhere, if they were served here: as easy to guess as
        those that are here."""
        tokens = _mean(stream.tokens_a_pass for stream in self._scheduler.streams())
        return self.plain_s(newcomers, now) / tokens

    def token_s_of_newcomer(self, stream: Stream, now: float) -> float:
        return self.token_s_of_newcomers([stream], now)

    def reading_s(self, num_tokens: int) -> float:
        """Seconds until the target has been told a text and has read it."""
        scheduler = self._scheduler
        if scheduler.target is None:
            return 0.0
        bits = HEADER_BITS + ENTRY_BITS + num_tokens * scheduler.state.token_bits
        told_s = scheduler.state.link.airtime_s(bits, 1)
        return told_s + scheduler.target.reading_s(num_tokens, scheduler.num_streams)


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return math.fsum(known) / len(known) if known else 1.0
