"""Targets that have just left and may be back soon: who asks meanwhile waits for them. Pure.

Requests that have begun wait STRANDED_LIMIT_S for a target, since one that was killed is usually
started again. For the same reason a new request waits as well, as long as its target has not been
away for longer than that.
"""

from __future__ import annotations

from nodes.coordinator.members.record import NodeRecord
from nodes.coordinator.members.roster import DRAINED, DROPPED, NodeOut
from nodes.coordinator.placing.stranded import STRANDED_LIMIT_S
from nodes.coordinator.requests.models import suits

_MOST_REMEMBERED = 64


class Absent:
    """The targets that left last, by name, and when."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[NodeRecord, float]] = {}

    def left(self, gone: NodeOut, now: float) -> None:
        """A target left. One that an operator took out is not expected back."""
        if gone.reason in (DRAINED, DROPPED):
            return
        self._left[gone.record.name] = gone.record, now
        if len(self._left) > _MOST_REMEMBERED:
            del self._left[next(iter(self._left))]

    def came(self, target: NodeRecord) -> None:
        """A target is there, perhaps again."""
        self._left.pop(target.name, None)

    def has(self, model: str, now: float) -> bool:
        """Whether a target for a model is expected back."""
        lately = [record for record, at in self._left.values() if now - at < STRANDED_LIMIT_S]
        return bool(suits(lately, model))
