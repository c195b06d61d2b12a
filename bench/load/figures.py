"""What a run of requests comes to: rates, delays, what was good enough. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. asked_s: when it was sent, seconds of the run. token_s: when each token came,
    as far as events tell: of an event with several, all at its time. error: why it failed, or "".
    """

    asked_s: float
    token_s: tuple[float, ...] = ()
    error: str = ""

    @property
    def first_token_s(self) -> float:
        """Seconds to the first token; infinite where none came."""
        return self.token_s[0] - self.asked_s if self.token_s else math.inf

    @property
    def each_token_s(self) -> float:
        """Seconds a token after the first, on average; 0.0 where there is but one."""
        if len(self.token_s) < 2:
            return 0.0
        return (self.token_s[-1] - self.token_s[0]) / (len(self.token_s) - 1)


@dataclass(frozen=True, slots=True)
class Slo:
    """What a user is content with, in seconds."""

    first_token_s: float
    each_token_s: float

    def is_met(self, request: Asked) -> bool:
        is_whole = not request.error and bool(request.token_s)
        is_prompt = request.first_token_s <= self.first_token_s
        return is_whole and is_prompt and request.each_token_s <= self.each_token_s


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds: the middle, and those that one in twenty and one in a hundred exceed."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """decode_tokens_per_s: while all streams decode. goodput_per_s: requests a second within the
    objective. cpu_s_per_token: of all processes of the system; 0.0 where that is not known.
    """

    num_requests: int
    num_failed: int
    num_tokens: int
    seconds: float
    tokens_per_s: float
    decode_tokens_per_s: float
    first_token: Delays
    each_token: Delays
    goodput_per_s: float
    cpu_s_per_token: float = 0.0


def delays(seconds: Sequence[float]) -> Delays:
    """Quantiles by rank, as they were seen: nothing is put in between."""
    if not seconds:
        return Delays(math.nan, math.nan, math.nan)
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]

    return Delays(at(0.5), at(0.95), at(0.99))


def figures_of(requests: Sequence[Asked], slo: Slo, cpu_s: float = 0.0) -> Figures:
    """Of at least one request.

    tokens_per_s counts from the first request to the last token; decode_tokens_per_s from when the
    last of the requests that ran together had its first token to when the first of them had its
    last, which is what a closed loop of one round each has in common with a bare engine loop.
    """
    whole = [r for r in requests if r.token_s and not r.error]
    times = [at for r in requests for at in r.token_s]
    began = min(r.asked_s for r in requests)
    seconds = max(times, default=began) - began
    num_tokens = len(times)
    return Figures(
        num_requests=len(requests),
        num_failed=sum(bool(r.error) for r in requests),
        num_tokens=num_tokens,
        seconds=seconds,
        tokens_per_s=num_tokens / seconds if seconds > 0 else 0.0,
        decode_tokens_per_s=_decode_rate(whole),
        first_token=delays([r.first_token_s for r in whole]),
        each_token=delays([r.each_token_s for r in whole if len(r.token_s) > 1]),
        goodput_per_s=sum(map(slo.is_met, requests)) / seconds if seconds > 0 else 0.0,
        cpu_s_per_token=cpu_s / num_tokens if num_tokens else 0.0,
    )


def _decode_rate(requests: Sequence[Asked]) -> float:
    several = [r for r in requests if len(r.token_s) > 1]
    if not several:
        return 0.0
    began = max(r.token_s[0] for r in several)
    ended = min(r.token_s[-1] for r in several)
    if ended <= began:
        return 0.0
    return sum(began < at <= ended for r in several for at in r.token_s) / (ended - began)
