"""Reads from a coordinator's log which nodes joined and left."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

_LINE = re.compile(
    rb"^(\S+ \S+) INFO \S+: (?:target|draft) (\S+) (?:(joined) with|(left): (.*))", re.MULTILINE
)
_FORMAT = "%Y-%m-%d %H:%M:%S,%f"
# Logged times are cut to milliseconds. What is logged must not seem to come before its cause.
_CUT_S = 0.001


@dataclass(frozen=True, slots=True)
class Change:
    """A node joined or left. at: on the clock of the log's reader. reason: why it left."""

    at: float
    node: str
    has_left: bool
    reason: str = ""


@dataclass(slots=True)
class Dark:
    """A time in which nothing passed a link, which may last yet.

    over: nodes that leave between `begin` and this time are taken to have left because of it.
    """

    begin: float
    mended: float = math.inf
    over: float = math.inf


class MemberLog:
    """All changes of membership so far, in order of time.

    ahead_s: returns how far the clock of the log, which is that of the wall, is ahead of the
    reader's. It is asked whenever lines are read, because the wall's clock is adjusted meanwhile,
    and a death that seems to come before its cause would not be found.
    """

    def __init__(self, path: Path, ahead_s: Callable[[], float]) -> None:
        self._path = path
        self._ahead_s = ahead_s
        self._num_read = 0
        self._changes: list[Change] = []

    def read_changes(self) -> list[Change]:
        """Reads what the coordinator has logged since the last call, and returns all changes."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._num_read)
                whole, end, _ = file.read().rpartition(b"\n")
            self._num_read += len(whole + end)
            ahead_s = self._ahead_s()
            self._changes += [_change(line, ahead_s) for line in _LINE.finditer(whole)]
        return self._changes

    def first(self, node: str, since: float, *, has_left: bool) -> Change | None:
        """Returns the first change of this kind of a node at `since` or later."""
        found = (c for c in self.read_changes() if (c.node, c.has_left) == (node, has_left))
        return next((change for change in found if change.at >= since), None)

    def is_in(self, node: str) -> bool:
        last = [change.has_left for change in self.read_changes() if change.node == node][-1:]
        return last == [False]

    def false_deaths(self, darks: Sequence[Dark], begin: float, end: float) -> list[Change]:
        """Returns the departures between begin and end that no outage explains."""
        return [
            change
            for change in self.left(begin, end)
            if not any(d.begin <= change.at < d.over for d in darks)
        ]

    def noticed_s(self, dark: Dark) -> list[float]:
        """Returns, for each node that left because of the outage, the seconds after its begin."""
        firsts: dict[str, float] = {}
        for change in self.left(dark.begin, dark.over):
            firsts.setdefault(change.node, change.at - dark.begin)
        return list(firsts.values())

    def healed_s(self, dark: Dark) -> list[float]:
        """Returns, for each such node, the seconds from mending until it was back for good.

        Infinity stands for a node that did not come back.
        """
        healed = []
        for node, left_at in {c.node: c.at for c in self.left(dark.begin, dark.over)}.items():
            joined = self.first(node, left_at, has_left=False)
            healed.append(max(0.0, joined.at - dark.mended) if joined else math.inf)
        return healed

    def left(self, begin: float, end: float) -> list[Change]:
        """Returns the departures between two times."""
        return [c for c in self.read_changes() if c.has_left and begin <= c.at < end]


def _change(line: re.Match[bytes], ahead_s: float) -> Change:
    at, node, joined, _, reason = (part.decode() if part else "" for part in line.groups())
    # With keys, a node's name is the key's name, a slash, and its own name.
    name = node.rpartition("/")[2]
    wall_s = datetime.strptime(at, _FORMAT).timestamp()
    return Change(wall_s + _CUT_S - ahead_s, name, not joined, reason)
