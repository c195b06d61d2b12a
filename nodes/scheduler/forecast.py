"""Predicted speed of streams on a target: of its own streams, and of others if they came to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from nodes.scheduler.stream import Stream
from policies.plan import ENTRY_BITS, HEADER_BITS

if TYPE_CHECKING:
    from nodes.scheduler.scheduler import Scheduler


def plain_s(scheduler: Scheduler, newcomers: Sequence[Stream], now: float) -> float:
    """Returns the seconds of a plain pass of the target's streams and the newcomers."""
    num_streams = len(scheduler.streams) + len(newcomers)
    if scheduler.target is None or not num_streams:
        return 0.0
    cells = scheduler.used_cells + sum(len(stream.token_ids) for stream in newcomers)
    return scheduler.target.expected_s(num_streams, cells, cells / num_streams, now)


def token_s(
    scheduler: Scheduler, streams: Iterable[Stream], newcomers: Sequence[Stream], now: float
) -> float:
    """Returns the average seconds a token of some of the target's streams.

    newcomers: streams of other targets that would be served here as well. They are taken to be as
    easy to guess as these.
    """
    tokens = [stream.tokens_a_pass for stream in streams]
    return plain_s(scheduler, newcomers, now) / (fmean(tokens) if tokens else 1.0)


def reading_s(scheduler: Scheduler, num_tokens: int) -> float:
    """Returns the seconds until a text has been sent to the target and read."""
    if scheduler.target is None:
        return 0.0
    bits = HEADER_BITS + ENTRY_BITS + num_tokens * scheduler.token_bits
    sending_s = scheduler.link.airtime_s(bits, 1)
    return sending_s + scheduler.target.reading_s(num_tokens, len(scheduler.streams))
