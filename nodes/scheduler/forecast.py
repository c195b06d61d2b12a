"""Predicted speed of streams on a target: of its own streams, and of others if they came to it."""

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
    """Predicted seconds a token on one target."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def plain_s(self, newcomers: Sequence[Stream], now: float) -> float:
        """Returns the seconds of a plain pass of the target's streams and the newcomers."""
        scheduler = self._scheduler
        num_streams = scheduler.num_streams + len(newcomers)
        if scheduler.target is None or not num_streams:
            return 0.0
        cells = sum(len(stream.token_ids) for stream in [*scheduler.streams(), *newcomers])
        return scheduler.target.expected_s(num_streams, cells, cells / num_streams, now)

    def token_s(self, stream_ids: Collection[int], now: float) -> float:
        """Returns the average seconds a token of some of the target's streams."""
        streams = [self._scheduler.stream(StreamId(stream_id)) for stream_id in stream_ids]
        known = [stream for stream in streams if stream is not None]
        tokens = _mean(stream.tokens_a_pass for stream in known)
        return self.plain_s((), now) / tokens

    def token_s_of_newcomers(self, newcomers: Sequence[Stream], now: float) -> float:
        """Returns the same for streams of other targets if they were served here.

        They are taken to be as easy to guess as the streams that are here.
        """
        tokens = _mean(stream.tokens_a_pass for stream in self._scheduler.streams())
        return self.plain_s(newcomers, now) / tokens

    def token_s_of_newcomer(self, stream: Stream, now: float) -> float:
        return self.token_s_of_newcomers([stream], now)

    def reading_s(self, num_tokens: int) -> float:
        """Returns the seconds until a text has been sent to the target and read."""
        scheduler = self._scheduler
        if scheduler.target is None:
            return 0.0
        bits = HEADER_BITS + ENTRY_BITS + num_tokens * scheduler.state.token_bits
        sending_s = scheduler.state.link.airtime_s(bits, 1)
        return sending_s + scheduler.target.reading_s(num_tokens, scheduler.num_streams)


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return math.fsum(known) / len(known) if known else 1.0
