"""Remembers requests that a target may have died of, to recognize them when they return. Pure.

Clients resubmit failed requests automatically: a request that ends targets would end another one
each time.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import deque
from typing import Final

from mesh.latest import Latest
from nodes.coordinator.placing.suspects import Process, Suspicion
from nodes.messages import SubmitRequest

# How long a request that ended two targets is refused, and how long one is suspected that was with
# one: as long as clients retry, and no longer, because it may have been there by chance.
PROVEN_S: Final = 600.0
SUSPECTED_S: Final = 60.0
_MOST: Final = 256
# The longest time that a target may still work on a cancelled stream.
_CANCELLED_S: Final = 10.0
_DIGEST_BYTES: Final = 16


def digest_of(submit: SubmitRequest) -> bytes:
    """Return a digest of a target's input, prompt and rules, whatever the seed and the client."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    parts = submit.model, submit.prompt, submit.messages, submit.tools, submit.rules
    digest.update(repr(parts).encode())
    digest.update(array("I", submit.prompt_token_ids).tobytes())
    return digest.digest()


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
        """Return the suspicion under which a request with this digest begins. If it is proven, the
        request is refused."""
        suspicion, until = self._entries.get(digest, (None, now))
        return suspicion if now < until else None
