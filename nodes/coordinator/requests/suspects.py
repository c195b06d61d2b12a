"""Decides where a stream is tried that may be the cause of a target's death, and remembers requests
that a target may have died of. Pure.

When a target is lost, each of its streams may be the cause. A stream that gets a token elsewhere is
not. The others, called suspects, are tried one at a time on a target, so that another death accuses
only one. A stream without a token from the lost target is the likeliest cause. It waits for that
target to return, but not for long, because a machine without power does not return. Then it is
tried once more, on any target. If that one dies as well, the stream ends: no request is tried on a
third process.

Clients resubmit failed requests automatically: a request that ends targets would end another one
each time. So it is recognized when it returns.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from airdraft.mesh.latest import Latest

# The name and incarnation of a target's process.
Process: TypeAlias = tuple[str, int]

# How long a request that ended two targets is refused, and how long one is suspected that was with
# one: as long as clients retry, and no longer, because it may have been there by chance.
PROVEN_S: Final = 600.0
SUSPECTED_S: Final = 60.0
_MOST: Final = 256
# The longest time that a target may still work on a cancelled stream.
_CANCELLED_S: Final = 10.0
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
        """Returns what is left of the suspicion once this process turns out to live."""
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


def accused(
    known: Suspicion | None, process: Process, *, is_new: bool, has_heard: bool, now: float
) -> Suspicion:
    """Returns the suspicion against a stream whose target was lost.

    is_new: the target had not produced a token of it. has_heard: a stream under suspicion had
    reached the target before it was lost; otherwise it cannot be the cause. Texts to tokenize are
    no suspects, because a separate process reads them.
    """
    suspicion = Suspicion(process) if known is None else known
    suspicion.last = process
    if is_new and (known is None or has_heard):
        suspicion.accused_by.append(process)
        suspicion.lost_at = now
    return suspicion


class Remembered:
    """Keeps the most recent suspicions by digest of the request."""

    def __init__(self) -> None:
        # Each with the time until which it holds.
        self._entries = Latest[bytes, tuple[Suspicion, float]](_MOST)
        # Requests cancelled before their first token from a target: time, target, digest.
        self._cancelled: deque[tuple[float, str, bytes]] = deque(maxlen=_MOST)

    def note(self, digest: bytes, suspicion: Suspicion, now: float) -> None:
        """Remember a request that ended under suspicion, unless it is known as proven already."""
        known = self.found(digest, now)
        if known is not None and known.is_proven and not suspicion.is_proven:
            return
        for_s = PROVEN_S if suspicion.is_proven else SUSPECTED_S
        self._entries[digest] = suspicion, now + for_s

    def cancelled(self, digest: bytes, target: str, now: float) -> None:
        """Note a request that was cancelled before its first token from a target."""
        self._cancelled.append((now, target, digest))

    def target_died(self, process: Process, now: float) -> None:
        """Suspect the requests that were cancelled on a target just before it was lost."""
        for at, name, digest in self._cancelled:
            if name == process[0] and now - at <= _CANCELLED_S:
                known = self.found(digest, now)
                others = [] if known is None else known.accused_by
                self.note(digest, Suspicion(process, [*others, process], now), now)

    def target_lives(self, process: Process) -> None:
        """Forget what was suspected because of a process that is there again."""
        for digest, (suspicion, until) in list(self._entries.items()):
            left = suspicion.without(process)
            if left is None:
                del self._entries[digest]
            elif left is not suspicion:
                self._entries[digest] = left, until

    def found(self, digest: bytes, now: float) -> Suspicion | None:
        """Returns the suspicion under which a request with this digest begins. If it is proven, the
        request is refused."""
        suspicion, until = self._entries.get(digest, (None, now))
        return suspicion if now < until else None
