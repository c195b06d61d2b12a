"""Turns of senders on a shared medium, so that they need not compete for it. Pure.

A reservation is a predicted time on one clock. It is not enforced: an early sender waits until
those before it are through, a late one sends at once, and the medium's own rules resolve the rest.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import Final, NamedTuple

# A limit, because peers may name any medium.
_MAX_MEDIA: Final = 256


class Reservation(NamedTuple):
    """A reserved interval, in seconds of the reserving clock."""

    start: float
    end: float


@dataclass(slots=True)
class Medium:
    """The reservations of one medium, in order and without overlap.

    reserved_s: seconds of all turns so far. last_end: when the last of them ends.
    """

    _starts: list[float] = field(default_factory=list)
    _ends: list[float] = field(default_factory=list)
    reserved_s: float = 0.0
    last_end: float = 0.0

    def reserve(self, now: float, ready: float, airtime_s: float) -> Reservation:
        """Reserve airtime_s in the first gap that is long enough, not before `ready`."""
        return self.reserve_gap(now, ready, airtime_s, airtime_s)

    def reserve_gap(self, now: float, ready: float, least_s: float, most_s: float) -> Reservation:
        """Reserve up to most_s of the first gap of least_s or more, not before `ready`."""
        self._forget(now)
        place = bisect.bisect_right(self._ends, ready)
        start = ready
        while place < len(self._starts) and self._starts[place] < start + least_s:
            start = max(start, self._ends[place])
            place += 1
        end = start + most_s
        if place < len(self._starts):
            end = min(end, self._starts[place])
        self.reserved_s += end - start
        self.last_end = max(self.last_end, end)
        self._starts.insert(place, start)
        self._ends.insert(place, end)
        return Reservation(start, end)

    def _forget(self, now: float) -> None:
        over = bisect.bisect_right(self._ends, now)
        del self._starts[:over], self._ends[:over]


@dataclass(slots=True)
class Air:
    """Shared media by name. Above the limit the one whose last turn ended first is dropped."""

    _media: dict[str, Medium] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Medium:
        medium = self._media.get(name)
        if medium is None:
            if len(self._media) >= _MAX_MEDIA:
                del self._media[min(self._media, key=lambda known: self._media[known].last_end)]
            medium = self._media[name] = Medium()
        return medium

    def reserved_s(self) -> list[tuple[str, float]]:
        """Returns the seconds that have been reserved on each medium."""
        return [(name, medium.reserved_s) for name, medium in self._media.items()]
