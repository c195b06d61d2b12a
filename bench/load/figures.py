"""Figures of a run of requests: rates, delays and goodput. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. asked_s: time when it was sent, seconds of the run. token_s: time of each token;
    tokens of one event have that event's time. error: reason of a failure, or "".
    """

    asked_s: float
    token_s: tuple[float, ...] = ()
    error: str = ""

    @property
    def first_token_s(self) -> float:
        """Seconds to the first token; infinite if none came."""
        return self.token_s[0] - self.asked_s if self.token_s else math.inf

    @property
    def each_token_s(self) -> float:
        """Mean seconds per token after the first; 0.0 if there are fewer than two tokens."""
        if len(self.token_s) < 2:
            return 0.0
        return (self.token_s[-1] - self.token_s[0]) / (len(self.token_s) - 1)


@dataclass(frozen=True, slots=True)
class Slo:
    """A service level objective: most seconds to the first token, and per later token."""

    first_token_s: float
    each_token_s: float

    def is_met(self, request: Asked) -> bool:
        is_whole = not request.error and bool(request.token_s)
        is_prompt = request.first_token_s <= self.first_token_s
        return is_whole and is_prompt and request.each_token_s <= self.each_token_s


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of a run. metrics: by name, each in a unit of UNITS or in seconds.

    "decode tokens/s" is the rate while all streams decode, "goodput" the requests per second that
    met the objective, "processor time a token" that of all the system's processes.
    """

    num_requests: int
    num_failed: int
    seconds: float
    metrics: dict[str, float]


UNITS: Final = {"tokens/s": "1/s", "decode tokens/s": "1/s", "goodput": "requests/s"}


def delays(what: str, seconds: Sequence[float]) -> dict[str, float]:
    """Return quantiles of delays by name. They are values of `seconds`; nan if there are none."""
    found = np.quantile(seconds or [math.nan], (0.5, 0.95, 0.99), method="inverted_cdf")
    return dict(zip((f"{what} p50", f"{what} p95", f"{what} p99"), map(float, found), strict=True))


def figures_of(requests: Sequence[Asked], slo: Slo, cpu_s: float = 0.0) -> Figures:
    """Return the figures of at least one request.

    tokens/s counts from the first request to the last token. In a closed loop with one request per
    stream, decode tokens/s is comparable with the rate of a bare engine loop.
    """
    whole = [r for r in requests if r.token_s and not r.error]
    times = [at for r in requests for at in r.token_s]
    began = min(r.asked_s for r in requests)
    seconds = max(times, default=began) - began
    each_s = 1.0 / seconds if seconds > 0 else 0.0
    metrics = {
        "tokens/s": len(times) * each_s,
        "decode tokens/s": joint_rate([r.token_s for r in whole]),
        **delays("first token", [r.first_token_s for r in whole]),
        **delays("time a token", [r.each_token_s for r in whole if len(r.token_s) > 1]),
        "goodput": sum(map(slo.is_met, requests)) * each_s,
        "processor time a token": cpu_s / max(1, len(times)),
    }
    return Figures(len(requests), sum(bool(r.error) for r in requests), seconds, metrics)


def joint_rate(
    token_s: Sequence[Sequence[float]], num_skipped: int = 1, *, ends_early: bool = False
) -> float:
    """Return the tokens/s of all streams while all decode; 0.0 if they never do.

    token_s: times of each stream's tokens; a stream of num_skipped tokens or fewer does not count.
    The time begins when each other stream has num_skipped tokens, and ends with a stream's last.
    ends_early: a stream that ends before all others have begun does not end the time.
    """
    several = [times for times in token_s if len(times) > num_skipped]
    began = max((times[num_skipped - 1] for times in several), default=0.0)
    ends = (times[-1] for times in several if times[-1] > began or not ends_early)
    ended = min(ends, default=0.0)
    if ended <= began:
        return 0.0
    return sum(began < at <= ended for times in several for at in times) / (ended - began)
