"""Speed and acceptance of a mesh over the last minutes, from its status documents. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from nodes.telemetry.status import Status

STEP_S: Final = 1.0
KEPT_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Point:
    """One step. acceptance: The fraction of verified guesses that were accepted; None if none."""

    at_s: float
    tokens_per_s: float
    acceptance: float | None


@dataclass(frozen=True, slots=True)
class _Sums:
    epoch: str
    at_s: float
    num_tokens: int
    num_guesses: int
    num_accepted: int


class History:
    """Points of a second or more each. A restart of the coordinator begins a new history."""

    def __init__(self) -> None:
        self._points: deque[Point] = deque(maxlen=round(KEPT_S / STEP_S))
        self._last: _Sums | None = None

    def __iter__(self) -> Iterator[Point]:
        return iter(self._points)

    def __len__(self) -> int:
        return len(self._points)

    def add(self, status: Status) -> None:
        new, last = _sums(status), self._last
        if last is None or new.epoch != last.epoch:
            self._points.clear()
            self._last = new
            return
        seconds = new.at_s - last.at_s
        # The document is the same one, or less than a step has passed.
        if seconds < STEP_S:
            return
        num_guesses = new.num_guesses - last.num_guesses
        # The sums may decrease, because the counters of a forgotten target are missing.
        rate = max(0.0, (new.num_tokens - last.num_tokens) / seconds)
        share = (new.num_accepted - last.num_accepted) / num_guesses if num_guesses > 0 else None
        self._points.append(Point(new.at_s, rate, share))
        self._last = new


def _sums(status: Status) -> _Sums:
    counts = [target.counts for target in status.targets]
    return _Sums(
        status.epoch,
        status.at_s,
        sum(sum(count.tokens.values()) for count in counts),
        sum(sum(count.made) for count in counts),
        sum(sum(count.accepted) for count in counts),
    )
