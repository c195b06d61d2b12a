"""Idempotency-Key: what follows from it, and what this gateway remembers of it.

By law 1 a text is a function of its request and seed. So nothing of an answer is kept: a seed that
follows from the key makes any gateway of the mesh give the same answer again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from nodes.gateway.errors import ApiError

HEADER: Final = "Idempotency-Key"
# JSON numbers of this size are exact in every client.
SEED_BITS: Final = 53
_ACCEPTED: Final = re.compile(rb"[\x21-\x7e]{1,255}")
_MAX_REMEMBERED: Final = 10_000
_REMEMBERED_S: Final = 3600.0
# For a request whose client has gone to end; that takes some turns of the event loop.
_ENDING_LIMIT_S: Final = 5.0


def of_headers(found: Sequence[bytes]) -> str | None:
    """The key of a request, if it has one. Raises ApiError naming the header."""
    if not found:
        return None
    # Two of them are none.
    value = b", ".join(found)
    if not _ACCEPTED.fullmatch(value):
        raise ApiError(
            400,
            f"{HEADER}: 1 to 255 visible ASCII characters are accepted",
            param=HEADER,
            code="invalid_value",
        )
    return value.decode("ascii")


@dataclass(frozen=True, slots=True)
class Keyed:
    """A request with a key. owner: name of the API key; key: what the client chose."""

    owner: str
    key: str

    def _derived(self, what: str, size: int, *more: bytes) -> bytes:
        hashed = hashlib.blake2b(digest_size=size, person=f"airdraft.{what}".encode())
        for part in (self.owner.encode(), self.key.encode(), *more):
            # Each with its length: no two lists of parts are the same bytes.
            hashed.update(len(part).to_bytes(8, "little"))
            hashed.update(part)
        return hashed.digest()

    @property
    def seed(self) -> int:
        """Of a request that names none; the same in every gateway."""
        return int.from_bytes(self._derived("seed", 8), "little") >> (64 - SEED_BITS)

    def request_id(self, prefix: str) -> str:
        return f"{prefix}-{self._derived('id', 12, prefix.encode()).hex()}"

    def tag(self, path: str, body: bytes) -> str:
        """Short for this key and body, in the ids of events: another body has another one."""
        return self._derived("event", 6, path.encode(), body).hex()


class _Entry:
    """A request under way. is_gone: whether its client has hung up, though it has not ended. end:
    its connection, which may be dead without anybody having heard.
    """

    def __init__(self, is_gone: Callable[[], bool], end: Callable[[], None]) -> None:
        self.is_gone, self.end = is_gone, end
        self.has_ended = asyncio.Event()


@dataclass(slots=True)
class _Remembered:
    """A key that was used. body: a digest. fingerprint: of what answered it, "" if nothing has."""

    body: bytes
    used_at: float
    fingerprint: str = ""


class KeyedRequests:
    """Requests with a key: one at a time under way, and bodies of the last hour as digests."""

    def __init__(
        self, max_remembered: int = _MAX_REMEMBERED, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_remembered = max_remembered
        self._clock = clock
        self._under_way: dict[Keyed, _Entry] = {}
        self._remembered: OrderedDict[Keyed, _Remembered] = OrderedDict()
        # Digests say nothing to who has not this.
        self._secret = secrets.token_bytes(32)

    @contextlib.asynccontextmanager
    async def entered(
        self,
        keyed: Keyed,
        path: str,
        body: bytes,
        is_gone: Callable[[], bool],
        *,
        end: Callable[[], None] = lambda: None,
        takes_over: bool = False,
    ) -> AsyncIterator[None]:
        """Raises ApiError: 422 for another body than before, 409 while one is under way.

        is_gone, end: of this request's client and connection. takes_over: its client says what it
        has of the one under way, so that has lost its reader.
        """
        self._check_body(keyed, path, body)
        while (other := self._under_way.get(keyed)) is not None:
            if takes_over:
                other.end()
            await self._ended(other)
        entry = self._under_way[keyed] = _Entry(is_gone, end)
        try:
            yield
        finally:
            del self._under_way[keyed]
            entry.has_ended.set()

    async def _ended(self, entry: _Entry) -> None:
        """Wait for a request whose client has gone. Raises ApiError where it has not."""
        if entry.is_gone():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ENDING_LIMIT_S):
                    await entry.has_ended.wait()
                    return
        raise ApiError(
            409,
            f"{HEADER}: a request with this key is under way: wait for its answer, or hang up",
            kind="idempotency_error",
            param=HEADER,
            code="request_in_progress",
            retry_after_s=1,
        )

    def _check_body(self, keyed: Keyed, path: str, body: bytes) -> None:
        now = self._clock()
        digest = hashlib.blake2b(path.encode() + b"\0", digest_size=16, key=self._secret)
        digest.update(body)
        self._forget_old(now)
        known = self._remembered.setdefault(keyed, _Remembered(digest.digest(), now))
        if known.body != digest.digest():
            raise ApiError(
                422,
                f"{HEADER}: this key was used with another body or route: take a new key for a new "
                f"request",
                kind="idempotency_error",
                param=HEADER,
                code="key_reused",
            )
        known.used_at = now
        self._remembered.move_to_end(keyed)
        if len(self._remembered) > self._max_remembered:
            self._remembered.popitem(last=False)

    def _forget_old(self, now: float) -> None:
        while self._remembered:
            if now - next(iter(self._remembered.values())).used_at < _REMEMBERED_S:
                return
            self._remembered.popitem(last=False)

    def fingerprint_of(self, keyed: Keyed) -> str:
        """Of what answered the last request with this key; "" if that is not known here."""
        known = self._remembered.get(keyed)
        return "" if known is None else known.fingerprint

    def answered(self, keyed: Keyed, fingerprint: str) -> None:
        """Who has this key has been told something of an answer with this fingerprint."""
        known = self._remembered.get(keyed)
        if known is not None:
            known.fingerprint = fingerprint
