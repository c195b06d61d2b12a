"""Time in which the own event loop did not run; pure.

Nobody was heard in it, whoever spoke: what came meanwhile is read after it. So a process that was
stopped, or had no processor, must not take it for the silence of others.
"""

# Less than this is every busy loop's lot.
_ALLOWED_S = 0.25


class PauseState:
    """Tells of pauses by how much later than asked for its owner looks again."""

    def __init__(self) -> None:
        self._looked_at: float | None = None

    def looked(self, now: float, asked_s: float) -> float:
        """Seconds of a pause since the last look, which was to be asked_s ago; 0 if there was none.

        The first look is compared with nothing.
        """
        before, self._looked_at = self._looked_at, now
        late_s = 0.0 if before is None else now - before - asked_s
        return late_s if late_s > _ALLOWED_S else 0.0
