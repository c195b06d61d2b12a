"""What plans of each kind have yielded of what they promised. Pure.

A prediction leaves things out: streams that end in the middle of a lap, messages that collide,
guesses that were hoped for. Plans without guesses, with one batch, two or more, and with plain
streams beside miss different ones, and how much depends on the mesh. Only the ratio of what
is left of them says which is better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from policies.plan import Kind, Plan, Slowness

# Of what is known of the kind of plan in force, and of the other kinds: they are tried again after
# so long.
_MEMORY_S, _OTHER_MEMORY_S = 20.0, 30.0
# How slow kinds are believed to be, between what 16 streams on a narrow cell gave, emulated and
# simulated; and for how many promised seconds that counts against what is seen.
_PRIORS = {
    Kind.PLAIN: 1.0,
    Kind.ONE: 1.01,
    Kind.TWO: 1.02,
    Kind.CROWDED: 1.08,
    Kind.MIXED: 1.05,
}
_PRIOR_S = 3.0
# A plan of another kind takes some cycles until all streams follow it; where texts are to be told
# first it may take seconds, but if they are told for longer, that is what guesses cost.
_SETTLING_CYCLES, _MOST_SETTLING_S = 2.0, 4.0
# A pass that is waited for longer tells no more than that.
_MOST_CYCLES = 4.0
_LEAST, _MOST = 0.9, 1.5


@dataclass(slots=True)
class _Yield:
    """Seconds seen, and seconds that plans promised their tokens in; both fade. prior: what of the
    first there is for the second if nothing was seen."""

    prior: float
    seen_s: float = 0.0
    promised_s: float = 0.0

    @property
    def slowness(self) -> float:
        """Seconds for one that was promised."""
        return (self.seen_s + self.prior * _PRIOR_S) / (self.promised_s + _PRIOR_S)

    def fade(self, seconds: float, memory_s: float) -> None:
        kept = math.exp(-seconds / memory_s)
        self.seen_s *= kept
        self.promised_s *= kept


@dataclass(slots=True)
class Yields:
    """Of one target's plans. Times are seconds of any one clock."""

    _kinds: dict[Kind, _Yield] = field(
        default_factory=lambda: {kind: _Yield(prior) for kind, prior in _PRIORS.items()}
    )
    _kind: Kind = Kind.PLAIN
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
        kind, seconds = plan.kind, now - self._last
        self._last = now
        if math.isinf(seconds):
            self._fade(now)
            self._since = now
            if math.isinf(self._switched_at):
                self._switched_at = now
            return
        if kind is not self._kind:
            self._kind, self._switched_at = kind, now
            self._since = now
        elif not is_followed and now - self._switched_at < _MOST_SETTLING_S:
            self._since = now
        for other, known in self._kinds.items():
            if other is not kind:
                known.fade(seconds, _OTHER_MEMORY_S)
        self._faded_at = now
        if now - self._since < _SETTLING_CYCLES * made.cycle_s:
            return
        found = self._kinds[kind]
        found.fade(seconds, _MEMORY_S)
        found.seen_s += min(seconds, _MOST_CYCLES * made.cycle_s)
        found.promised_s += num_tokens * (1.0 - made.ahead_gain) / made.tokens_per_s

    def pause(self, now: float | None = None) -> None:
        """Time goes by that no plan is to be judged by: nobody wants tokens, or many prompts are
        read. now: where it is known, what was seen fades meanwhile."""
        self._last = -math.inf
        if now is not None:
            self._fade(now)

    def _fade(self, now: float) -> None:
        if math.isfinite(self._faded_at):
            for known in self._kinds.values():
                known.fade(now - self._faded_at, _OTHER_MEMORY_S)
        self._faded_at = now

    @property
    def slowness(self) -> Slowness:
        """Of the kinds with guesses beside plain decoding, each from 0.9 to 1.5."""
        plain = self._kinds[Kind.PLAIN].slowness

        def of(kind: Kind) -> float:
            return min(_MOST, max(_LEAST, self._kinds[kind].slowness / plain))

        return Slowness(
            one=of(Kind.ONE),
            two=of(Kind.TWO),
            mixed=of(Kind.MIXED),
            crowded=of(Kind.CROWDED),
        )
