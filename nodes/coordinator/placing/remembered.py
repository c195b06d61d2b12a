"""Requests that a target may have died of, so that they are known when they are asked again. Pure.

Clients ask again by themselves when a request fails: a request that ends targets would end one each
time.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict, deque
from copy import deepcopy
from dataclasses import dataclass
from typing import Final

from nodes.coordinator.placing.suspects import Suspicion
from nodes.messages import SubmitRequest

# One that was proven to end targets; and one that was not, for as long as clients go on asking.
# That is short, as the same words may be an innocent's.
PROVEN_S: Final = 3600.0
SUSPECTED_S: Final = 60.0
_MOST: Final = 256
# A target may still work on a stream that was cancelled so long ago, at most.
_CANCELLED_S: Final = 10.0
_DIGEST_BYTES: Final = 16


def digest_of(submit: SubmitRequest) -> bytes:
    """Of what a target has to work on: prompt and rules, whatever the seed and whoever asks."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    told = submit.model, submit.prompt, submit.messages, submit.tools, submit.rules
    digest.update(repr(told).encode())
    digest.update(array("I", submit.prompt_token_ids).tobytes())
    return digest.digest()


@dataclass(frozen=True, slots=True)
class _Entry:
    suspicion: Suspicion
    is_proven: bool
    until: float


class Remembered:
    """By digest, the last ones of many."""

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        # Of requests that were cancelled before a token of them had come: when, and from where.
        self._cancelled: deque[tuple[float, str, bytes]] = deque(maxlen=_MOST)

    def note(self, digest: bytes, suspicion: Suspicion, now: float, *, is_proven: bool) -> None:
        """A request failed with a suspicion that nothing has taken from it."""
        until = now + (PROVEN_S if is_proven else SUSPECTED_S)
        self._entries[digest] = _Entry(suspicion, is_proven, until)
        self._entries.move_to_end(digest)
        if len(self._entries) > _MOST:
            self._entries.popitem(last=False)

    def cancelled(self, digest: bytes, target: str, now: float) -> None:
        """A request was cancelled before a token of it had come from a target."""
        self._cancelled.append((now, target, digest))

    def target_died(self, target: str, incarnation: int, now: float) -> None:
        """It may have died of what was cancelled just before."""
        for at, name, digest in self._cancelled:
            if name == target and now - at <= _CANCELLED_S:
                suspicion = Suspicion([target], [now], new_on={target: incarnation})
                self.note(digest, suspicion, now, is_proven=False)

    def verdict(self, digest: bytes, now: float) -> str:
        """Why such a request is not taken in; "" if it is."""
        entry = self._found(digest, now)
        if entry is None or not entry.is_proven:
            return ""
        names = ", ".join(sorted(set(entry.suspicion.targets)))
        return f"such a request ended target nodes before ({names}): it is not tried again for now"

    def suspicion(self, digest: bytes, now: float) -> Suspicion | None:
        """With what such a request begins."""
        entry = self._found(digest, now)
        return None if entry is None else deepcopy(entry.suspicion)

    def _found(self, digest: bytes, now: float) -> _Entry | None:
        entry = self._entries.get(digest)
        if entry is not None and now >= entry.until:
            del self._entries[digest]
            return None
        return entry
