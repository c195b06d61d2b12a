"""Detects time in which this process's event loop did not run. Pure.

Messages that arrive in such a pause are only read after it. So a process that was stopped, or had
no processor, must not count the pause as silence of its peers.
"""

# Shorter delays are normal in a busy event loop.
_ALLOWED_S = 0.25


class PauseState:
    """Measures pauses by how much later than scheduled its owner calls looked()."""

    def __init__(self) -> None:
        self._looked_at: float | None = None

    def looked(self, now: float, asked_s: float) -> float:
        """Returns the seconds of a pause since the last call; 0 if there was none.

        asked_s: the scheduled time between the two calls. The first call returns 0.
        """
        late_s = self.late_s(now, asked_s)
        self._looked_at = now
        return late_s

    def late_s(self, now: float, asked_s: float) -> float:
        """Returns what looked() would, without a call of it."""
        late_s = 0.0 if self._looked_at is None else now - self._looked_at - asked_s
        return late_s if late_s > _ALLOWED_S else 0.0
