"""Speed and acceptance of a mesh over the last minutes, from its status documents. Pure."""

from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from airdraft.nodes.telemetry.status import Status

STEP_S: Final = 1.0
KEPT_S: Final = 300.0


class Point(NamedTuple):
    """One step. acceptance: The fraction of verified guesses that were accepted; None if none."""

    at_s: float
    tokens_per_s: float
    acceptance: float | None


class History:
    """Points of a second or more each. A restart of the coordinator begins a new history."""

    def __init__(self) -> None:
        self._points: deque[Point] = deque(maxlen=round(KEPT_S / STEP_S))
        self._epoch: str | None = None
        # The time of the last point, and its sums of tokens, verified guesses and accepted ones.
        self._last = 0.0, 0, 0, 0

    def __iter__(self) -> Iterator[Point]:
        return iter(self._points)

    def add(self, status: Status) -> None:
        counts = [target.counts for target in status.targets]
        num_tokens = sum(sum(count.tokens.values()) for count in counts)
        num_guesses = sum(sum(count.made) for count in counts)
        num_accepted = sum(sum(count.accepted) for count in counts)
        last_s, last_tokens, last_guesses, last_accepted = self._last
        seconds = status.at_s - last_s
        if status.epoch != self._epoch:
            self._points.clear()
            self._epoch = status.epoch
        # Otherwise the document is the same one, or less than a step has passed.
        elif seconds >= STEP_S:
            new_guesses = num_guesses - last_guesses
            # The sums may decrease, because the counters of a forgotten target are missing.
            rate = max(0.0, (num_tokens - last_tokens) / seconds)
            new_accepted = num_accepted - last_accepted
            is_known = new_guesses > 0 and 0 <= new_accepted <= new_guesses
            share = new_accepted / new_guesses if is_known else None
            self._points.append(Point(status.at_s, rate, share))
        else:
            return
        self._last = status.at_s, num_tokens, num_guesses, num_accepted
