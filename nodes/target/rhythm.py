"""When the next round is to be expected: what can go along with it may wait. Pure.

A pass of a few tokens takes a target as long as one of dozens. Where it is idle until guesses are
there, a pass for the last tokens of some prompt, or for a token of a stream whose draft node is not
ready yet, is one that the round waits for, and all its streams with it.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from nodes.stream import PROMPT_PIECE_TOKENS
from nodes.target.state import TargetState
from policies.latency import CostTable

_RATE = 0.1
# Rounds are a little late half of the time.
_SLACK = 1.5
# A target that had nothing to do for an hour learns no more of it than this.
_MOST_TIMES = 4.0
# The oldest of more are forgotten: of streams that have ended nothing is heard any more.
_MOST_BATCHES = 64


@dataclass(slots=True)
class Rhythm:
    """Of one target. Times are seconds of any one clock.

    gap_s: from the end of a batch's pass to its next round, on average; pass_s: of a pass with
    rounds; interval_s: from one to the next; num_tokens: that one commits to streams in rounds.
    """

    gap_s: float = math.inf
    pass_s: float = 0.0
    interval_s: float = 0.0
    num_tokens: float = 0.0
    # Batches whose guesses are there; and those that they are made for, with when their passes
    # ended.
    _here: dict[frozenset[int], None] = field(default_factory=dict)
    _away: dict[frozenset[int], float] = field(default_factory=dict)
    _last_end: float = -math.inf

    def round_came(self, now: float, stream_ids: Collection[int]) -> None:
        """Guesses for these streams are there to be verified."""
        members = frozenset(stream_ids)
        self._here[members] = None
        # Who has changed batches meanwhile does not come back with the old one.
        known = {batch: len(batch & members) for batch in self._away if batch & members}
        if not known:
            return
        gap_s = max(0.0, now - self._away[max(known, key=lambda batch: known[batch])])
        for batch in known:
            del self._away[batch]
        if math.isinf(self.gap_s):
            self.gap_s = min(gap_s, _MOST_TIMES * self.pass_s)
        else:
            most_s = _MOST_TIMES * max(self.pass_s, self.gap_s)
            self.gap_s += _RATE * (min(gap_s, most_s) - self.gap_s)

    def round_done(
        self, now: float, seconds: float, stream_ids: Collection[int], num_tokens: int = 0
    ) -> None:
        """A pass has ended in which guesses for these streams were verified, and has committed
        tokens to them."""
        if self.pass_s:
            most_s = _MOST_TIMES * max(seconds, self.interval_s)
            self.interval_s += _RATE * (min(now - self._last_end, most_s) - self.interval_s)
            self.pass_s += _RATE * (seconds - self.pass_s)
            self.num_tokens += _RATE * (num_tokens - self.num_tokens)
        else:
            self.pass_s = self.interval_s = seconds
            self.num_tokens = num_tokens
        for batch in [batch for batch in self._here if not batch.isdisjoint(stream_ids)]:
            del self._here[batch]
            self._away.pop(batch, None)
            self._away[batch] = now
        for batches in (self._here, self._away):
            while len(batches) > _MOST_BATCHES:
                del batches[next(iter(batches))]
        self._last_end = now

    def patient_until(
        self,
        now: float,
        awaited: Collection[int],
        num_leased: int = 0,
        plain_s: float = math.inf,
    ) -> float:
        """Until when a pass that could go along with the next round should wait for it; `now` if
        it should not.

        awaited: streams that guesses may come for. num_leased: streams that have a token each of
        that pass; plain_s: seconds it takes, if that is known. It waits where the round is expected
        sooner than that pass would end, and for one that is late as long as that at most; and where
        those tokens are fewer than the round's streams would lose.
        """
        plain_s = min(plain_s, self.pass_s)
        for batch, ended_at in self._away.items():
            until = ended_at + min(_SLACK * self.gap_s, self.gap_s + plain_s)
            if not now < until < math.inf or batch.isdisjoint(awaited):
                continue
            delay_s = now + plain_s - max(now, ended_at + self.gap_s)
            is_worth_it = num_leased * self.interval_s < self.num_tokens * delay_s
            return until if delay_s > 0 and (is_worth_it or not num_leased) else now
        return now


class HoldPace:
    """Keeps passes until guesses are there for which streams wait."""

    def patience_s(self, worker: TargetState, now: float) -> float:
        return worker.patience_s(now)

    def passed(self, worker: TargetState, now: float, seconds: float) -> None:
        worker.passed(seconds, now)


class RoundPace:
    """Keeps what may wait until the next round, where that is soon there."""

    def __init__(self, decode: CostTable) -> None:
        """decode: seconds of the target's passes by their tokens."""
        self._decode = decode
        self.rhythm = Rhythm()

    def begin_anew(self) -> None:
        """Another coordinator sends rounds at times of its own."""
        self.rhythm = Rhythm()

    def patience_s(self, worker: TargetState, now: float) -> float:
        found = worker.between_rounds()
        # What does not fit beside a round waits for more of them than one.
        if found is None or found.num_unread > PROMPT_PIECE_TOKENS:
            return 0.0
        plain_s = math.inf
        if found.num_leased:
            plain_s = self._decode.at(found.num_leased + found.num_unread)
        waits = found.awaited, found.num_leased, plain_s
        return self.rhythm.patient_until(now, *waits) - now

    def passed(self, worker: TargetState, now: float, seconds: float) -> None:
        worker.passed(seconds, now)
        if worker.in_rounds:
            self.rhythm.round_done(now, seconds, worker.in_rounds, worker.num_committed)
