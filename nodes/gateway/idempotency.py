"""Idempotency-Key: derives seeds and ids from it, and remembers keys in use.

By law 1 a text is a function of its request and seed. So no answer is kept: a seed derived from the
key makes any gateway of the mesh give the same answer again.
"""

import asyncio
import contextlib
import hashlib
import re
import secrets
import time
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from airdraft.nodes.client.generation import SEED_BITS
from airdraft.nodes.gateway.bodies import wrong
from airdraft.nodes.gateway.connections.connection import Connection
from airdraft.nodes.gateway.errors import ApiError

HEADER: Final = "Idempotency-Key"
_ACCEPTED: Final = re.compile(rb"[\x21-\x7e]{1,255}")
_MAX_REMEMBERED: Final = 10_000
_REMEMBERED_S: Final = 3600.0
# How long to wait for a request to end whose client has left; it takes a few event-loop cycles.
_ENDING_LIMIT_S: Final = 5.0


def of_headers(found: Sequence[bytes]) -> str | None:
    """Returns the key of a request, or None. Raises ApiError naming the header."""
    if not found:
        return None
    # Several headers are joined with a space, which is not accepted.
    value = b", ".join(found)
    if not _ACCEPTED.fullmatch(value):
        raise wrong(HEADER, "1 to 255 visible ASCII characters are accepted")
    return value.decode("ascii")


@dataclass(frozen=True, slots=True)
class Keyed:
    """A request with a key. owner: name of the API key. key: the client's Idempotency-Key."""

    owner: str
    key: str

    def _derived(self, what: str, size: int, *more: bytes) -> bytes:
        hashed = hashlib.blake2b(digest_size=size, person=f"airdraft.{what}".encode())
        for part in (self.owner.encode(), self.key.encode(), *more):
            # With the lengths, different lists of parts never become the same bytes.
            hashed.update(len(part).to_bytes(8, "little"))
            hashed.update(part)
        return hashed.digest()

    @property
    def seed(self) -> int:
        """The seed of a request that names none; it is the same in every gateway."""
        return int.from_bytes(self._derived("seed", 8), "little") >> (64 - SEED_BITS)

    def request_id(self, prefix: str) -> str:
        return f"{prefix}-{self._derived('id', 12, prefix.encode()).hex()}"


@dataclass(slots=True)
class Remembered:
    """A key that was used. body: digest of path and body. fingerprint: of its last answer of which
    the client has received a part, or ""."""

    body: bytes
    used_at: float
    fingerprint: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _UnderWay:
    """A request that holds a key. reader: its connection."""

    reader: Connection
    has_ended: asyncio.Event = field(default_factory=asyncio.Event)


class KeyedRequests:
    """Requests with a key: allows one at a time per key, and keeps body digests for an hour, or
    until there are too many: then the API key that has the most loses its oldest."""

    def __init__(
        self, max_remembered: int = _MAX_REMEMBERED, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_remembered = max_remembered
        self._clock = clock
        self._under_way: dict[Keyed, _UnderWay] = {}
        # By owner, so that no API key pushes out what is remembered for another.
        self._remembered: defaultdict[str, OrderedDict[str, Remembered]] = defaultdict(OrderedDict)
        # Without this secret a digest reveals nothing about a body.
        self._secret = secrets.token_bytes(32)

    @contextlib.asynccontextmanager
    async def entered(
        self, keyed: Keyed, path: str, body: bytes, reader: Connection
    ) -> AsyncIterator[Remembered]:
        """Hold the key for one request, which may change what is remembered of it.

        A request with the key that is under way is ended: who asks again has lost its answer, even
        if nothing says so, as where a link is dead. Raises ApiError: 422 if the key was used with
        another body, 409 if the earlier request does not end soon.
        """
        remembered = self._of_body(keyed, path, body)
        while (other := self._under_way.get(keyed)) is not None:
            other.reader.abort()
            await self._ended(other)
        mine = self._under_way[keyed] = _UnderWay(reader)
        try:
            yield remembered
        finally:
            del self._under_way[keyed]
            mine.has_ended.set()

    async def _ended(self, other: _UnderWay) -> None:
        """Wait for another request to end. Raises ApiError if it takes too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ENDING_LIMIT_S):
                await other.has_ended.wait()
                return
        reason = "an earlier request with this key has not ended yet: ask again"
        raise _refused(409, reason, "request_in_progress", retry_after_s=1)

    def _of_body(self, keyed: Keyed, path: str, body: bytes) -> Remembered:
        now = self._clock()
        digest = hashlib.blake2b(path.encode() + b"\0", digest_size=16, key=self._secret)
        digest.update(body)
        self._forget_old(keyed.owner, now)
        of_owner = self._remembered[keyed.owner]
        known = of_owner.setdefault(keyed.key, Remembered(digest.digest(), now))
        if known.body != digest.digest():
            reason = "this key was used with another body or route: use a new key for a new request"
            raise _refused(422, reason, "key_reused")
        known.used_at = now
        of_owner.move_to_end(keyed.key)
        self._keep_bound(now)
        return known

    def _keep_bound(self, now: float) -> None:
        """Forget one of the owner that has the most, if there are too many in all."""
        if self._num_remembered() <= self._max_remembered:
            return
        for owner in tuple(self._remembered):
            self._forget_old(owner, now)
        if self._num_remembered() > self._max_remembered:
            max(self._remembered.values(), key=len).popitem(last=False)

    def _num_remembered(self) -> int:
        return sum(map(len, self._remembered.values()))

    def _forget_old(self, owner: str, now: float) -> None:
        of_owner = self._remembered.get(owner)
        while of_owner and now - next(iter(of_owner.values())).used_at >= _REMEMBERED_S:
            of_owner.popitem(last=False)
        if not of_owner:
            self._remembered.pop(owner, None)

    def fingerprint_of(self, keyed: Keyed | None) -> str:
        """The fingerprint of the last answer with this key; "" if this gateway knows none."""
        if keyed is None:
            return ""
        of_owner = self._remembered.get(keyed.owner)
        known = None if of_owner is None else of_owner.get(keyed.key)
        return "" if known is None else known.fingerprint


def _refused(status: int, reason: str, code: str, **more: Any) -> ApiError:
    kind = "idempotency_error"
    return ApiError(status, f"{HEADER}: {reason}", kind=kind, param=HEADER, code=code, **more)
