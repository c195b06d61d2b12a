"""When a node of a private mesh is started again after it has ended. Pure: no clock, no processes.

The first start after a death is immediate, because most deaths have nothing to do with the next
start. A node that keeps dying gets ever longer pauses, so that it does not take the processor from
the others by loading its model all the time.
"""

from __future__ import annotations

from typing import Final

# Seconds before the first, second, ... start in a row; the last value holds for all later ones.
WAITS_S: Final = (0.0, 0.5, 1.0, 2.0, 4.0, 5.0)
# A node that was in the mesh for so many seconds is well: its next death is a first one again. What
# a node dies of while it serves, such as a request that comes back, it dies of within seconds.
HEALTHY_S: Final = 5.0
# Before the mesh has ever been ready somebody waits for it, who is to read what is wrong.
MOST_FAILED_STARTS: Final = 5
# Exit codes after which another start ends alike (docs/reference/exit-codes.md).
_MISTAKES: Final = frozenset({2, 76, 77, 78})
DISMISSED: Final = 79


class Restarts:
    """The deaths of one node. Times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._num_in_a_row = 0
        self._joined_at: float | None = None

    def joined(self, now: float) -> None:
        """The node that was started last is in the mesh."""
        self._joined_at = now

    def ended(self, exit_code: int, now: float, *, was_ready: bool) -> float | None:
        """How many seconds to wait until the next start; None if there is to be none.

        exit_code: negative for a signal. was_ready: whether the whole mesh has ever been ready.
        """
        joined_at, self._joined_at = self._joined_at, None
        if joined_at is not None and now - joined_at >= HEALTHY_S:
            self._num_in_a_row = 0
        self._num_in_a_row += 1
        if exit_code == DISMISSED:
            return None
        if not was_ready and (exit_code in _MISTAKES or self._num_in_a_row >= MOST_FAILED_STARTS):
            return None
        return WAITS_S[min(self._num_in_a_row, len(WAITS_S)) - 1]
