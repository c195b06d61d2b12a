"""What there is to do where all of it may go along with guesses that are on their way."""

from __future__ import annotations

from dataclasses import dataclass

from nodes.stream import StreamId
from nodes.target.residents import Residents


@dataclass(frozen=True, slots=True)
class BetweenRounds:
    """What a target has to do while it waits for guesses.

    awaited: streams that guesses may come for. num_unread: tokens to be read before the first ones
    of texts that wait; 0 where all is known, and only those first tokens are to be decoded.
    num_leased: streams of leases beside rounds.
    """

    awaited: frozenset[StreamId]
    num_unread: int
    num_leased: int = 0


def between_rounds(residents: Residents) -> BetweenRounds | None:
    """None where something does not wait, where nobody is waited for, or nothing is to be done."""
    awaited, num_leased = set(), 0
    for stream in residents:
        if not stream.announced or residents.missing(stream):
            continue
        if not stream.may_decode:
            awaited.add(stream.spec.stream_id)
        elif stream.is_leased and stream.beside_rounds:
            num_leased += 1
        else:
            return None
    if not awaited:
        return None
    for stream in residents.by_age():
        # What is there of its prefix counts as read.
        residents.to_read(stream)
    unread = sum(map(residents.missing, residents))
    begins = any(not stream.announced and stream.may_decode for stream in residents)
    if not (unread or begins or num_leased):
        return None
    return BetweenRounds(frozenset(awaited), unread, num_leased)
