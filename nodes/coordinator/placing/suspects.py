"""Decides whether a stream causes the deaths of targets or chance explains them. Pure.

When a target dies, each of its streams may be the cause. A stream that gets a token elsewhere is
not. The others, called suspects, are tried one at a time on a target, so that another death
accuses only one. A stream without a token from the target that died is the likeliest cause. It is
not tried on other targets: it waits for this one to return, and is tried there alone.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nodes.coordinator.members.roster import NodeOut
    from nodes.coordinator.requests.request import Choice

DAY_S = 86_400.0
_MOST_REMEMBERED, _NUM_LATELY = 4096, 64
# The least time over which a rate is computed: closer deaths are one event.
_LEAST_S = 0.01
# An innocent stream may be convicted less than once in a thousand days of a target.
_WRONG_HZ = 1e-3 / DAY_S
# Limit for losses of any cause in a row, for targets that die before they have read the prompt.
MOST_LOSSES = 32
_MAX_NAMES = 8


@dataclass(slots=True)
class Suspicion:
    """The evidence against one stream since it last made progress.

    targets, died_at: targets that died with it, and when. Other streams may have caused the first
    death; at each later one no other stream was new on the target. exposed_s: for each death but
    the first, seconds that the stream was new on targets before it. since_s: the same since the
    last death. num_losses: targets that left under it for any reason. new_on: incarnations, by
    name, of targets that died before its first token there; it is tried on these alone, if any.
    is_proven: it was convicted.
    """

    targets: list[str]
    died_at: list[float]
    exposed_s: list[float] = field(default_factory=list)
    since_s: float = 0.0
    num_losses: int = 1
    new_on: dict[str, int] = field(default_factory=dict)
    is_proven: bool = False

    def may_go_to(self, target: str) -> bool:
        return not self.new_on or target in self.new_on

    def lost(self, target: str, exposed_s: float, now: float, *, is_alone: bool) -> None:
        """Note another death. is_alone: the target had received it, and nothing else was new."""
        self.num_losses += 1
        self.since_s += exposed_s
        if is_alone:
            self.targets.append(target)
            self.died_at.append(now)
            self.exposed_s.append(self.since_s)
            self.since_s = 0.0

    def verdict(self, rate_hz: float) -> tuple[str, str] | None:
        """Return the code and reason with which the stream ends; None if it is tried again.

        rate_hz: deaths per second of a target from other causes.
        """
        num = len(self.targets)
        if not is_chance(self.exposed_s, rate_hz):
            names = ", ".join(dict.fromkeys(self.targets[:_MAX_NAMES]))
            line = f"this request ended target nodes {num} times ({names}): it is not tried again"
            return "internal", line
        if self.num_losses >= MOST_LOSSES:
            line = f"{self.num_losses} target nodes left before this request got a token: try later"
            return "unavailable", line
        return None


def is_chance(exposed_s: Sequence[float], rate_hz: float) -> bool:
    """Whether chance may explain the deaths that a suspect was exposed to.

    Each stream on a target that dies becomes a suspect. The probability that another target dies of
    another cause within the T seconds in which the suspect is new there is rate * T. For several
    deaths it is the product. This product times the rate of first deaths is the rate at which
    innocent streams are convicted.
    """
    chance = math.prod(min(1.0, rate_hz * seconds) for seconds in exposed_s)
    return not exposed_s or rate_hz * chance >= _WRONG_HZ


class Deaths:
    """The deaths of targets: what may have caused them, and the rate of those of other causes."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._times: deque[float] = deque(maxlen=_MOST_REMEMBERED)

    def begin(self, now: float) -> None:
        """Start the observation when the first target joins; later calls change nothing."""
        if self._since is None:
            self._since = now

    def note(self, now: float) -> None:
        self._times.append(now)

    def rate_hz(self, own: Sequence[float], num_targets: int, now: float) -> float:
        """Return the deaths per second of one target. own: times of deaths with a suspect, which do
        not count.

        The rate is the largest of three: the deaths of the last day plus one, because a young mesh
        has had no time for any; the rate since any of the last _NUM_LATELY deaths, because deaths
        close together have a common cause; and one a day.
        """
        seen_s = _LEAST_S if self._since is None else min(DAY_S, max(_LEAST_S, now - self._since))
        num_day = sum(at >= now - seen_s for at in self._times)
        rates = [(1 + max(0, num_day - len(own))) / seen_s]
        others = Counter([*self._times][-_NUM_LATELY:])
        others.subtract(own)
        lately = sorted(others.elements(), reverse=True)
        rates += [num / max(_LEAST_S, now - at) for num, at in enumerate(lately, 1)]
        return max(1.0 / DAY_S, max(rates) / max(1, num_targets))

    def accuse(
        self, gone: NodeOut, held: Sequence[Choice], num_targets: int, now: float
    ) -> list[tuple[Choice, tuple[str, str]]]:
        """Raise the suspicion against the streams of a target that died.

        held: its streams. Texts to tokenize are no suspects, because a separate process reads them.
        num_targets: including this one. Returns the streams that are not tried again, each with the
        code and reason of its error.
        """
        if not gone.has_died:
            return []
        self.note(now)
        name, incarnation = gone.record.name, gone.record.member.incarnation
        num_new = sum(choice.is_new for choice in held)
        accused = []
        for choice in held:
            # A stream that the target had not received yet cannot be the cause.
            has_heard = choice.suspicion is None or gone.record.proved_at > choice.opened_at
            if choice.suspicion is None:
                choice.suspicion = Suspicion([name], [now])
            else:
                is_alone = num_new == 1 and has_heard
                choice.suspicion.lost(name, now - choice.opened_at, now, is_alone=is_alone)
                rate_hz = self.rate_hz(choice.suspicion.died_at, num_targets, now)
                verdict = choice.suspicion.verdict(rate_hz)
                if verdict is not None:
                    choice.suspicion.is_proven = verdict[0] == "internal"
                    accused.append((choice, verdict))
            if choice.is_new and has_heard:
                choice.suspicion.new_on[name] = incarnation
        return accused
