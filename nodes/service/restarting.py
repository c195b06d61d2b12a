"""Decides when a node of a private mesh is restarted after it has ended. Pure.

The first restart is immediate, because most causes of an end are gone at the next start. A node
that ends again and again gets longer pauses, so that it does not take the CPU from the others by
loading its model all the time.
"""

from __future__ import annotations

from typing import Final

# The pauses before the first, second, ... restart in a row; the last one holds for all later ones.
WAITS_S: Final = (0.0, 0.5, 1.0, 2.0, 4.0, 5.0)
# After so many seconds in the mesh a node counts as healthy, and its next end as the first one. A
# cause that persists, such as a request that is sent again, ends a serving node within seconds.
HEALTHY_S: Final = 5.0
# Until the mesh is ready, a user waits for it and has to see the error.
MOST_FAILED_STARTS: Final = 5
# The exit codes after which a restart would end in the same way (docs/reference/exit-codes.md).
_MISTAKES: Final = frozenset({2, 76, 77, 78})
DISMISSED: Final = 79


class Restarts:
    """Counts the ends of one node. Times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._num_in_a_row = 0
        self._joined_at: float | None = None

    def joined(self, now: float) -> None:
        """Record that the node that was started last has joined the mesh."""
        self._joined_at = now

    def ended(self, exit_code: int, now: float, *, was_ready: bool) -> float | None:
        """Return the seconds to wait until the next start; None if the node is not restarted.

        exit_code: Negative for a signal. was_ready: Whether the whole mesh has ever been ready.
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
