"""Limits how many requests a second an API key may send."""

import time
from collections.abc import Callable
from typing import Final

from airdraft.mesh.token_buckets import TokenBuckets
from airdraft.nodes.gateway.apikeys import ANYBODY, ApiKey
from airdraft.nodes.gateway.errors import failed

# Programs send requests in bursts, such as all that are allowed at a time, again and again.
_BURST_S: Final = 4.0
# Reading so many bytes of a body takes about as long as all else of a request that is refused.
_BYTES_A_REQUEST: Final = 65_536


class RequestRate:
    """per_s: requests a second of each key. Where no key is needed there is nobody to protect."""

    def __init__(self, per_s: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._clock = clock
        self._buckets = TokenBuckets(_BURST_S * per_s, per_s)

    def take(self, key: ApiKey) -> None:
        """Count a request. Raises ApiError."""
        self._take(key, 1.0)

    def take_body(self, key: ApiKey, num_bytes: int) -> None:
        """Count the body of a request, before it is read. Raises ApiError."""
        self._take(key, num_bytes / _BYTES_A_REQUEST)

    def _take(self, key: ApiKey, amount: float) -> None:
        if key is ANYBODY or self._buckets.take(key.name, amount, self._clock()):
            return
        reason = (
            f"this key may send {self._per_s} requests a second, and each 64 KiB of a body counts "
            "as one more: send fewer"
        )
        raise failed("overloaded", reason)
