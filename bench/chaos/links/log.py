"""Read from the coordinator's log which nodes joined and left; pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_LINE = re.compile(r"INFO \S+: (?:target|draft) (\S+) (?:(joined) with|(left): (.*))")


@dataclass(frozen=True, slots=True)
class Change:
    """A node joined or left. at: on the machine's monotonic clock. reason: why it left."""

    at: float
    node: str
    has_left: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Dark:
    """A time in which nothing passed a link.

    over: nodes that leave between `begin` and this time are taken to have left because of it.
    """

    begin: float
    mended: float
    over: float


@dataclass(slots=True)
class MemberLog:
    """All changes of membership so far, in order of time."""

    changes: list[Change] = field(default_factory=list)

    def read(self, line: str, now: float) -> None:
        """Read a line of the coordinator's log; lines about other events are ignored."""
        if (found := _LINE.search(line)) is not None:
            node, joined, _, reason = found.groups()
            # With keys, a node's name is the key's name, a slash, and its own name.
            name = node.rpartition("/")[2]
            self.changes.append(Change(now, name, not joined, reason or ""))

    def first(self, node: str, since: float, *, has_left: bool) -> Change | None:
        """Return the first change of this kind of a node at `since` or later."""
        found = (c for c in self.changes if (c.node, c.has_left) == (node, has_left))
        return next((change for change in found if change.at >= since), None)

    def is_in(self, node: str) -> bool:
        last = [change.has_left for change in self.changes if change.node == node][-1:]
        return last == [False]

    def false_deaths(self, darks: Sequence[Dark], begin: float, end: float) -> list[Change]:
        """Return the departures between begin and end that no outage explains."""
        return [
            change
            for change in self._within(begin, end)
            if change.has_left and not any(d.begin <= change.at < d.over for d in darks)
        ]

    def noticed_s(self, dark: Dark) -> list[float]:
        """Return, for each node that left because of the outage, the seconds after its begin."""
        lefts: dict[str, float] = {}
        for change in self._within(dark.begin, dark.over):
            if change.has_left:
                lefts.setdefault(change.node, change.at - dark.begin)
        return list(lefts.values())

    def healed_s(self, dark: Dark) -> list[float]:
        """Return, for each such node, the seconds from mending until it was back for good.

        Infinity stands for a node that did not come back.
        """
        lasts = {
            change.node: change for change in self._within(dark.begin, dark.over) if change.has_left
        }
        healed = []
        for node, left in lasts.items():
            joined = self.first(node, left.at, has_left=False)
            healed.append(max(0.0, joined.at - dark.mended) if joined else float("inf"))
        return healed

    def _within(self, begin: float, end: float) -> list[Change]:
        return [change for change in self.changes if begin <= change.at < end]
