"""Decides where a stream is tried that may be the cause of a target's death. Pure.

When a target is lost, each of its streams may be the cause. A stream that gets a token elsewhere is
not. The others, called suspects, are tried one at a time on a target, so that another death accuses
only one. A stream without a token from the lost target is the likeliest cause. It waits for that
target to return, but not for long, because a machine without power does not return. Then it is
tried once more, on any target. If that one dies as well, the stream ends: no request is tried on a
third process.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from nodes.coordinator.members.roster import NodeOut
    from nodes.coordinator.requests.request import Choice

# The name and incarnation of a target's process.
Process: TypeAlias = tuple[str, int]

# How long a stream waits for the target that was lost with it. Targets whose process was killed
# were back after 2.6 s in the median, and after 3.5 s at most (20 kills under `airdraft up`).
RETURN_S: Final = 4.0
# The number of processes that a request may end.
_MOST_DEATHS: Final = 2


@dataclass(slots=True)
class Suspicion:
    """The evidence against one stream since its last token.

    last: the process that was lost with it last, for whatever reason. accused_by: the processes
    that were lost after they had received it and before they produced a token of it. lost_at: when
    the last of these was lost. is_proven: the stream ended all of them.
    """

    last: Process
    accused_by: list[Process] = field(default_factory=list)
    lost_at: float = -math.inf
    is_proven: bool = False

    @property
    def is_spent(self) -> bool:
        """Whether the stream is tried nowhere, unless one of the processes turns out to live."""
        return len(self.accused_by) >= _MOST_DEATHS

    @property
    def waits_until(self) -> float:
        """When the stream may go to any target."""
        if self.is_spent:
            return math.inf
        return self.lost_at + RETURN_S if self.accused_by else -math.inf

    def may_go_to(self, target: str, now: float) -> bool:
        is_return = not self.is_spent and any(name == target for name, _ in self.accused_by)
        return is_return or now >= self.waits_until

    def without(self, process: Process) -> Suspicion | None:
        """Return what is left of the suspicion once this process turns out to live."""
        left = [each for each in self.accused_by if each != process]
        if process != self.last and len(left) == len(self.accused_by):
            return self
        return Suspicion(left[-1], left, self.lost_at) if left else None

    def is_confirmed_by(self, process: Process) -> bool:
        """Whether a new process shows that the one before it, the last that this stream may have
        ended, has died."""
        name, incarnation = self.accused_by[-1] if self.is_spent else ("", 0)
        return process[0] == name and process[1] != incarnation

    @property
    def names(self) -> str:
        return " and ".join(dict.fromkeys(name for name, _ in self.accused_by))


def suspect(gone: NodeOut, held: Iterable[Choice], now: float) -> None:
    """Raise the suspicion against the streams of a target that was lost.

    held: its streams. Texts to tokenize are no suspects, because a separate process reads them.
    """
    process = gone.record.name, gone.record.member.incarnation
    for choice in held:
        # A stream that the target had not received yet cannot be the cause.
        has_heard = choice.suspicion is None or gone.record.proved_at > choice.opened_at
        if choice.suspicion is None:
            choice.suspicion = Suspicion(process)
        choice.suspicion.last = process
        if choice.is_new and has_heard:
            choice.suspicion.accused_by.append(process)
            choice.suspicion.lost_at = now
