"""What plans have yielded of what they promised: with guesses, and without. Pure.

A prediction leaves things out: streams that end in the middle of a lap, messages that wait, guesses
that were hoped for. Plans with and without guesses miss different ones, and only the ratio of
what is left of both says which is better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from policies.plan import Plan

# Of what is known of the kind of plan in force, and of the other kind.
_MEMORY_S, _OTHER_MEMORY_S = 10.0, 15.0
# Promised seconds that a ratio of 1 is believed for, before anything was seen.
_PRIOR_S = 5.0
# A plan of the other kind takes some cycles until all streams follow it; where texts are to be told
# first it may take seconds, but if they are told for longer, that is what guesses cost.
_SETTLING_CYCLES, _MOST_SETTLING_S = 2.0, 4.0
# A pass that is waited for longer tells no more than that.
_MOST_CYCLES = 4.0
_MOST = 1.5


@dataclass(slots=True)
class _Kind:
    """Seconds seen, and seconds that plans promised their tokens in; both fade."""

    seen_s: float = 0.0
    promised_s: float = 0.0

    @property
    def slowness(self) -> float:
        """Seconds for one that was promised."""
        return (self.seen_s + _PRIOR_S) / (self.promised_s + _PRIOR_S)

    def fade(self, seconds: float, memory_s: float) -> None:
        kept = math.exp(-seconds / memory_s)
        self.seen_s *= kept
        self.promised_s *= kept


@dataclass(slots=True)
class Yields:
    """Of one target's plans. Times are seconds of any one clock."""

    _kinds: dict[bool, _Kind] = field(default_factory=lambda: {True: _Kind(), False: _Kind()})
    _guesses: bool = False
    # Since when plans are of that kind, and since when enough streams follow them.
    _switched_at: float = -math.inf
    _since: float = -math.inf
    _last: float = -math.inf
    _faded_at: float = -math.inf

    def committed(
        self, num_tokens: int, plan: Plan, now: float, *, is_followed: bool = True
    ) -> None:
        """A pass gave tokens under a plan. is_followed: by most streams that shall guess."""
        made = plan.prediction
        if made is None or made.tokens_per_s <= 0.0:
            return
        guesses, seconds = bool(plan.batches), now - self._last
        self._last = now
        if math.isinf(seconds):
            self._fade(now)
            self._since = now
            if math.isinf(self._switched_at):
                self._switched_at = now
            return
        if guesses is not self._guesses:
            self._guesses, self._switched_at = guesses, now
            self._since = now
        elif not is_followed and now - self._switched_at < _MOST_SETTLING_S:
            self._since = now
        self._kinds[not guesses].fade(seconds, _OTHER_MEMORY_S)
        self._faded_at = now
        if now - self._since < _SETTLING_CYCLES * made.cycle_s:
            return
        kind = self._kinds[guesses]
        kind.fade(seconds, _MEMORY_S)
        kind.seen_s += min(seconds, _MOST_CYCLES * made.cycle_s)
        kind.promised_s += num_tokens * (1.0 - made.ahead_gain) / made.tokens_per_s

    def pause(self, now: float | None = None) -> None:
        """Time goes by that no plan is to be judged by: nobody wants tokens, or many prompts are
        read. now: where it is known, what was seen fades meanwhile."""
        self._last = -math.inf
        if now is not None:
            self._fade(now)

    def _fade(self, now: float) -> None:
        if math.isfinite(self._faded_at):
            for kind in self._kinds.values():
                kind.fade(now - self._faded_at, _OTHER_MEMORY_S)
        self._faded_at = now

    @property
    def overrun(self) -> float:
        """How much less of what they promise plans with guesses yield than those without, from 1
        to 1.5."""
        ratio = self._kinds[True].slowness / self._kinds[False].slowness
        return min(_MOST, max(1.0, ratio))
