"""Loss and delay of packets after the medium, where no radio sends them again; pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """One direction of a link, beyond its medium.

    loss: probability that a packet is lost. A bad state (Gilbert-Elliott) begins before a packet
    with probability `enter` and ends with probability `leave`; inside it, loss_inside applies
    instead of `loss`. jitter_s: upper bound of the extra delay of a packet; packets stay in order.
    """

    loss: float = 0.0
    enter: float = 0.0
    leave: float = 1.0
    loss_inside: float = 0.0
    jitter_s: float = 0.0


class PathState:
    """The state of one path, to which packets come in order."""

    def __init__(self, path: Path, random: Random) -> None:
        self.is_cut = False
        self._path = path
        self._random = random
        self._is_bad = False
        self._last_s = -math.inf

    def loses(self) -> bool:
        """Draw whether the next packet is lost."""
        path, draw = self._path, self._random.random
        if path.enter:
            changes = draw() < (path.leave if self._is_bad else path.enter)
            self._is_bad ^= changes
        loss = path.loss_inside if self._is_bad else path.loss
        return self.is_cut or (loss > 0.0 and draw() < loss)

    def arrives_s(self, at_s: float) -> float:
        """Draw the arrival time of a packet that would arrive at at_s without jitter."""
        if self._path.jitter_s:
            at_s += self._random.random() * self._path.jitter_s
        self._last_s = max(self._last_s, at_s)
        return self._last_s
