"""Time limits of requests, and waits between tries. Pure: reads no clock and does not sleep."""

import random
from collections.abc import Callable
from typing import Final

# Upper bounds of the first and of any wait between tries. The first is short, because a coordinator
# that is back can serve at once.
FIRST_WAIT_S: Final = 0.1
MOST_WAIT_S: Final = 5.0
# The limit of a request until its coordinator has sent its own.
DEFAULT_LIMIT_S: Final = 3600.0
# The coordinator ends a request at its limit. Without its notice the client does, this much later.
GRACE_S: Final = 0.75
# The limit of queries that are answered at once.
QUESTION_LIMIT_S: Final = 60.0


class Backoff:
    """Waits between tries that double, with full jitter, so that clients do not return in step."""

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self._num_tries = 0

    def wait_s(self) -> float:
        """The wait before the next try."""
        # Beyond 2^16 the maximum applies anyway.
        most = min(MOST_WAIT_S, FIRST_WAIT_S * 2 ** min(self._num_tries, 16))
        self._num_tries += 1
        return self._uniform(0.0, most)

    def reset(self) -> None:
        """Start again with short waits, after progress."""
        self._num_tries = 0


class TimeLimit:
    """The time limit of one request, from its options and its coordinator. Times are monotonic."""

    def __init__(self, asked_s: float | None, now: float) -> None:
        self._asked_s = asked_s
        self._begun_at = now
        self._ends_at = now + (DEFAULT_LIMIT_S if asked_s is None else asked_s)
        self._is_told = False

    @property
    def give_up_at(self) -> float:
        """The time at which the client gives up, even without a notice."""
        return self._ends_at + GRACE_S

    @property
    def exceeded(self) -> str:
        """The reason of failure for a request that was not done in time."""
        total_s = round(self._ends_at - self._begun_at, 2)
        return f"the request was not done within its {total_s:g} s"

    def told(self, limit_s: float, now: float) -> None:
        """Apply the limit of the first coordinator; later coordinators keep it."""
        if self._is_told or limit_s <= 0:
            return
        self._is_told = True
        told = now + limit_s
        self._ends_at = told if self._asked_s is None else min(self._ends_at, told)

    def deadline_s(self, now: float) -> float:
        """The seconds left, as in SubmitRequest; 0 if no limit is known."""
        if self._asked_s is None and not self._is_told:
            return 0.0
        # A request that is late is still sent, and the coordinator fails it.
        return max(1e-3, self._ends_at - now)
