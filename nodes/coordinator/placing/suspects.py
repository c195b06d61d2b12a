"""What targets may die of: streams that were on one, and whether chance explains it. Pure.

When a target dies, all that it had may be the cause. What goes on elsewhere with a token is not.
The others, suspects, are tried one at a time on a target, so that the next death, if it comes,
accuses one alone. A stream of which no token had come from the target that died is the likeliest
cause: it goes to no other target. It waits for this one, and is tried there alone.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

DAY_S = 86_400.0
_MOST_REMEMBERED, _NUM_LATELY = 4096, 64
# Deaths that are so near to each other are one event.
_LEAST_S = 0.01
# Who dies of nothing is to be accused wrongly less than once in a thousand days of a target.
_WRONG_HZ = 1e-3 / DAY_S
# Losses one after the other, whatever they were: a bound, where targets die faster than they read.
MOST_LOSSES = 32
_MAX_NAMES = 8


@dataclass(slots=True)
class Suspicion:
    """Against one stream, since it last made progress.

    targets, died_at: that died with it, and when: the first among others, each later one while
    nothing else was new on it. exposed_s: for each but the first, seconds that it was new on
    targets until then; since_s: since the last one. num_losses: targets that died under it, for
    whatever reason. new_on: names of those that died before a token of it had come from there, each
    with its incarnation; where there are some it is tried on these alone.
    """

    targets: list[str]
    died_at: list[float]
    exposed_s: list[float] = field(default_factory=list)
    since_s: float = 0.0
    num_losses: int = 1
    new_on: dict[str, int] = field(default_factory=dict)

    def may_go_to(self, target: str) -> bool:
        return not self.new_on or target in self.new_on

    def lost(self, target: str, exposed_s: float, now: float, *, is_alone: bool) -> None:
        """Another target has died. is_alone: it was there, and nothing else was new on it."""
        self.num_losses += 1
        self.since_s += exposed_s
        if is_alone:
            self.targets.append(target)
            self.died_at.append(now)
            self.exposed_s.append(self.since_s)
            self.since_s = 0.0

    def verdict(self, rate_hz: float) -> tuple[str, str] | None:
        """Code and line with which it ends; None if it is tried again.

        rate_hz: deaths of a target a second that have nothing to do with it.
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
    """Whether deaths that a suspect was exposed to may have nothing to do with it.

    Whoever is on a target that dies becomes a suspect. That another target dies of itself within
    the T seconds in which it is new there has the probability rate T, that the next one does, too,
    the product of both. Times the rate of first deaths: how often an innocent one is accused.
    """
    chance = math.prod(min(1.0, rate_hz * seconds) for seconds in exposed_s)
    return not exposed_s or rate_hz * chance >= _WRONG_HZ


class Deaths:
    """How often targets die of themselves."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._times: list[float] = []

    def begin(self, now: float) -> None:
        """There are targets, perhaps since before."""
        if self._since is None:
            self._since = now

    def note(self, now: float) -> None:
        self._times.append(now)
        if len(self._times) > 2 * _MOST_REMEMBERED:
            del self._times[:_MOST_REMEMBERED]

    def rate_hz(self, own: Sequence[float], num_targets: int, now: float) -> float:
        """Deaths of a target a second. own: when targets died with a suspect, which do not count.

        Of the last day: one more than were seen, because a mesh that is young has had no time for
        any. Or since any of the last ones, where more have come of late: what dies together has a
        cause of its own. At least one a day.
        """
        seen_s = _LEAST_S if self._since is None else min(DAY_S, max(_LEAST_S, now - self._since))
        num_day = len(self._times) - bisect.bisect_left(self._times, now - seen_s)
        rates = [(1 + max(0, num_day - len(own))) / seen_s]
        others = Counter(self._times[-_NUM_LATELY:])
        others.subtract(own)
        lately = sorted(others.elements(), reverse=True)
        rates += [num / max(_LEAST_S, now - at) for num, at in enumerate(lately, 1)]
        return max(1.0 / DAY_S, max(rates) / max(1, num_targets))
