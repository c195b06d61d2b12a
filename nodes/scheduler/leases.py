"""How far the target may go on by itself: leases that last for the way, and those that keep step.

A lease is renewed before it has run out, so that the target never waits for the next one. What
begins anew when a pass has ended (a round, or a lease after it) is there only after the way to the
target and back: where others go on meanwhile it has missed a pass by then. Where a lease takes the
air of a target that is on some, leases are longer, and renewed together. Streams that are guessed
by lookup therefore keep step where nobody else decodes: while any of them has guesses, all run out
together, and then go on together; for that the target waits for the way once a pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

from nodes.messages import LeaseEntry
from nodes.scheduler.stream import Leased, Opening, Stream
from nodes.scheduler.watching.counts import MOST_S
from nodes.stream import StreamId
from policies.plan import ENTRY_BITS, HEADER_BITS, Link

LEASE_TOKENS = 8
# Renewed this early, so that the target never waits for the next lease.
LEASE_LOW_TOKENS = 4
# A stream whose draft node is about to be ready goes plainly in small steps until then.
LEASE_WHILE_OPENING_TOKENS = 2
# What a lease lasts at least beyond its renewal: messages, and an event loop that is busy.
_LEASE_S = 0.05
_PASS_RATE = _WAY_RATE = 0.1
_LEAST_PASS_S = 1e-6
# A target is near whose way and back takes no more than this part of a pass.
_NEAR_PASSES = 0.5
# Of a target that is very far away for its passes: what a client that leaves it has in vain.
_MOST_WAY_TOKENS = 256
# Of the air, that leases may take; what one may wait there for others' messages; and tokens of
# leases, that are no longer for either.
_MOST_AIR_SHARE, _AIR_WAIT_S, _MOST_AIR_TOKENS = 0.05, 0.2, 32


class Leases:
    """Of the streams of one target, which it shares with the scheduler.

    target_rtt_s: of the way to the target and back; link: all of it.
    """

    def __init__(
        self, streams: Mapping[StreamId, Stream], prompts_s: Callable[[int], float]
    ) -> None:
        """prompts_s: seconds that prompts add now to a pass of so many other tokens."""
        self._streams = streams
        self._prompts_s = prompts_s
        self.link = Link()
        # Of its passes of late, and of the last one.
        self._pass_s = self._last_pass_s = 0.0
        self._way_s = 0.0

    @property
    def target_rtt_s(self) -> float:
        return self.link.rtt_s

    def pass_done(self, seconds: float) -> None:
        """The target ran a pass, which a lease has to last for; seconds: as it says."""
        seconds = min(max(_LEAST_PASS_S, seconds), MOST_S)
        before_s = self._pass_s or seconds
        self._pass_s = before_s + _PASS_RATE * (seconds - before_s)
        self._last_pass_s = seconds

    def round_done(self, seconds: float) -> None:
        """A round for which the target waited is over: all but its pass, the last, was the way."""
        way_s = min(max(0.0, seconds - self._last_pass_s), self._pass_s)
        before_s = self._way_s or way_s
        self._way_s = before_s + _WAY_RATE * (way_s - before_s)

    @property
    def way_s(self) -> float:
        """From the end of a pass to the next one where that has to be told to the target."""
        return max(self.target_rtt_s, self._way_s)

    @property
    def way_tokens(self) -> int:
        """Tokens that the target decodes for a stream while it is told and answers."""
        if self._pass_s <= 0.0:
            return 1
        way = math.ceil(self.target_rtt_s / self._pass_s)
        return min(max(1, way), _MOST_WAY_TOKENS)

    def extend_all(self, streams: Sequence[Stream]) -> list[LeaseEntry]:
        """Of all that are decoded plainly, for which the plan has no guesses."""
        made = [(s, self.extend(s, shall_guess=False)) for s in streams]
        if self.link.is_free or not any(entries for _, entries in made):
            return [entry for _, entries in made for entry in entries]
        # One message takes less of the air than one after the other.
        every = [entries or self.extend(s, shall_guess=False, beside=True) for s, entries in made]
        return [entry for entries in every for entry in entries]

    def extend(
        self, stream: Stream, *, shall_guess: bool, beside: bool = False
    ) -> list[LeaseEntry]:
        """Of a stream that is decoded plainly. shall_guess: as soon as it can, by the plan. beside:
        others are renewed now, and this one may as well be."""
        num_tokens = self._num_tokens(stream, shall_guess=shall_guess)
        # However far away the target is, a lease is renewed before it has run out.
        low = max(self.way_tokens, min(LEASE_LOW_TOKENS, num_tokens // 2))
        if num_tokens > LEASE_WHILE_OPENING_TOKENS:
            low = max(low, min(self._air_tokens(_AIR_WAIT_S), num_tokens // 2))
        low = max(low, num_tokens - 1) if beside else low
        # A pass of its own may be one that a round waits for, with all its streams.
        return stream.extend_lease(max(num_tokens, low + 1), low, beside_rounds=shall_guess)

    def _num_tokens(self, stream: Stream, *, shall_guess: bool) -> int:
        """Short where the stream is about to guess, no longer than need be where it may: a plan
        that lets it waits until the lease has run out."""
        placement = stream.draft
        opening = placement is not None and not (placement.is_ready or placement.is_late)
        if opening or stream.is_on_probation or (shall_guess and stream.is_behind):
            return LEASE_WHILE_OPENING_TOKENS
        lease_s = self.link.airtime_s(HEADER_BITS + len(self._streams) * ENTRY_BITS, 1)
        on_air = self._air_tokens(_AIR_WAIT_S + lease_s / _MOST_AIR_SHARE)
        longest = max(LEASE_TOKENS, 2 * self.way_tokens, on_air)
        if not stream.can_guess or self._pass_s <= 0.0:
            return longest
        lasting = math.ceil((_LEASE_S + self.target_rtt_s) / self._pass_s)
        return min(longest, max(on_air, LEASE_WHILE_OPENING_TOKENS + lasting))

    def _air_tokens(self, seconds: float) -> int:
        """Tokens that last for so long, of a target that is on the air; 0 of one that is not."""
        if self.link.is_free or self._pass_s <= 0.0:
            return 0
        return min(_MOST_AIR_TOKENS, math.ceil(seconds / self._pass_s))

    # -- streams that are guessed by lookup ------------------------------------------------

    def keep_step(self, members: Sequence[Stream]) -> bool:
        """Whether these wait for each other: nobody else decodes, and it costs little."""
        is_near = self.target_rtt_s <= _NEAR_PASSES * self._pass_s
        if not all(is_weighed(stream) for stream in members):
            return False
        if self._prompts_s(len(self._streams)) > 0.0:
            return False
        return (is_near or len(members) == 1) and self._are_alone(members)

    def _are_alone(self, members: Collection[Stream]) -> bool:
        ids = {stream.spec.stream_id for stream in members}
        return all(
            isinstance(stream.phase, Opening)
            for stream_id, stream in self._streams.items()
            if stream_id not in ids
        )

    def between_matches(
        self, members: Sequence[Stream], *, keep_step: bool, some_go: bool, some_drafted: bool
    ) -> tuple[int, int, bool]:
        """Tokens of a lease for those without guesses, with how many left it is renewed, and
        whether it is one beside rounds.

        some_go: whether others of them have guesses that are worth a round. No tokens: wait.
        some_drafted: whether draft nodes begin a round of some of them.
        """
        if keep_step and (some_go or any(stream.is_away for stream in members)):
            lasting = self.lasting(members)
            return (lasting - 1 if lasting else 1), 0, False
        # Beside a round of a draft node it ends with the round's pass, so that all may go then.
        if some_drafted or any(s.is_away and not is_weighed(s) for s in members):
            return 1, 0, True
        return self.way_tokens + 1, self.way_tokens, False

    def lasting(self, members: Sequence[Stream]) -> int:
        """Passes until all of them have run out; 0 if nobody is in one."""
        return max((_passes_left(stream) for stream in members), default=0)

    def toll_of_rounds(self, members: Sequence[Stream], *, keep_step: bool) -> tuple[float, float]:
        """What a round costs beside its longer pass: seconds that all wait, and passes from one to
        the next of the stream that has it."""
        if not keep_step:
            return 0.0, 1.0 + self.way_tokens
        # What follows a round is told to the target as well; who goes on as it is need not be.
        return (2.0 if self.lasting(members) else 1.0) * self.way_s, 1.0


def is_weighed(stream: Stream) -> bool:
    """Whether its guesses are there before a round, and are sent only where that is worth it."""
    return stream.is_by_lookup and stream.fixed_gamma is None


def _passes_left(stream: Stream) -> int:
    if isinstance(stream.phase, Leased):
        return stream.phase.end - len(stream.token_ids)
    return int(stream.is_away)
