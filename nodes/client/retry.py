"""How long to wait for a mesh, and how long between two tries. Pure: no clock, no sleeping."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

# Between tries, at most; the first one is soon, as a coordinator that is back can serve at once.
FIRST_WAIT_S: Final = 0.1
MOST_WAIT_S: Final = 5.0
# Of a request, until its coordinator has told its own limit.
DEFAULT_LIMIT_S: Final = 3600.0
# The coordinator ends a request at its limit, and says so; who is not told ends it by himself.
GRACE_S: Final = 0.75
# For questions that are answered at once.
QUESTION_LIMIT_S: Final = 60.0


class Backoff:
    """Waits between tries, doubling, with full jitter: clients do not come back in step."""

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self._num_tries = 0

    def wait_s(self) -> float:
        """Before the next try."""
        # Beyond 2^16 it is the most anyway.
        most = min(MOST_WAIT_S, FIRST_WAIT_S * 2 ** min(self._num_tries, 16))
        self._num_tries += 1
        return self._uniform(0.0, most)

    def reset(self) -> None:
        """There was progress."""
        self._num_tries = 0


class TimeLimit:
    """Of one request: what was asked for, and what its coordinator allows. Times are monotonic."""

    def __init__(self, asked_s: float | None, now: float) -> None:
        self._asked_s = asked_s
        self._begun_at = now
        self._ends_at = now + (DEFAULT_LIMIT_S if asked_s is None else asked_s)
        self._is_told = False

    @property
    def give_up_at(self) -> float:
        """When to wait no more, whatever anybody says."""
        return self._ends_at + GRACE_S

    @property
    def exceeded(self) -> str:
        """What is said of a request that was not done in time."""
        total_s = round(self._ends_at - self._begun_at, 2)
        return f"the request was not done within its {total_s:g} s"

    def told(self, limit_s: float, now: float) -> None:
        """The first coordinator says how long it serves the request; others go on with that."""
        if self._is_told or limit_s <= 0:
            return
        self._is_told = True
        told = now + limit_s
        self._ends_at = told if self._asked_s is None else min(self._ends_at, told)

    def deadline_s(self, now: float) -> float:
        """As in SubmitRequest; 0 where nothing is known of it."""
        if self._asked_s is None and not self._is_told:
            return 0.0
        # Who is late is told so by the coordinator.
        return max(1e-3, self._ends_at - now)
