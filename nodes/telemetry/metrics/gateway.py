"""Metrics that a gateway measures itself: its HTTP requests and the times of tokens. Pure.

No label comes from a client: routes and kinds are from fixed sets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry

from airdraft.nodes.telemetry.metrics.families import Metric

OTHER: Final = "other"
_UP_TO_60_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_A_TOKEN: Final = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)

REQUESTS: Final = Metric(
    "airdraft_gateway_requests_total",
    "counter",
    "HTTP requests that have ended.",
    ("route", "status"),
)
TTFT: Final = Metric(
    "airdraft_gateway_time_to_first_token_seconds",
    "histogram",
    "Time from a request's arrival to its first token.",
)
TPOT: Final = Metric(
    "airdraft_gateway_time_per_output_token_seconds",
    "histogram",
    "Mean time of a token of a choice, without its first ones.",
)
METRICS: Final = (REQUESTS, TTFT, TPOT)


@dataclass(slots=True)
class _Choice:
    """The times of a choice's tokens. num_first: The number of tokens in the first message."""

    first_at: float
    last_at: float
    num_first: int
    num_tokens: int


class GatewayMetrics:
    """The metrics of one gateway, in a registry of its own.

    routes: The paths that it serves, in Starlette's form. A part in braces matches any text and is
    counted as {id}. Requests for other paths are counted together.
    """

    def __init__(
        self, routes: Collection[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._routes = frozenset(route for route in routes if "{" not in route)
        self._prefixes = tuple(route.partition("{")[0] for route in routes if "{" in route)
        self.clock = clock
        registry = self.registry = CollectorRegistry()
        self.requests = REQUESTS.counter(registry)
        self.ttft = TTFT.histogram(registry, _UP_TO_60_S)
        self.tpot = TPOT.histogram(registry, _A_TOKEN)

    def request_started(self, path: str) -> RequestMetrics:
        """Count a request that has arrived; its finished() must be called in every case."""
        return RequestMetrics(self, self._route_of(path), self.clock())

    def _route_of(self, path: str) -> str:
        if path in self._routes:
            return path
        found = next((prefix for prefix in self._prefixes if path.startswith(prefix)), None)
        return OTHER if found is None else found + "{id}"


@dataclass(slots=True)
class RequestMetrics:
    """The measurements of one request, from its arrival on."""

    _of: GatewayMetrics
    _route: str
    _arrived_at: float
    _choices: dict[int, _Choice] = field(default_factory=dict)
    _is_over: bool = False

    def tokens_came(self, choice: int, num_tokens: int) -> None:
        """Count tokens. choice: Any number that identifies one of the request's texts."""
        if num_tokens <= 0:
            return
        now = self._of.clock()
        if not self._choices:
            self._of.ttft.observe(now - self._arrived_at)
        seen = self._choices.get(choice)
        if seen is None:
            self._choices[choice] = _Choice(now, now, num_tokens, num_tokens)
        else:
            seen.last_at = now
            seen.num_tokens += num_tokens

    def finished(self, status: int) -> None:
        """Record the end with an HTTP status; later calls are ignored."""
        if self._is_over:
            return
        self._is_over = True
        # An invalid status counts as 500, so that a bug cannot make labels without limit.
        self._of.requests.labels(self._route, status if 100 <= status <= 599 else 500).inc()
        for seen in self._choices.values():
            if (num_later := seen.num_tokens - seen.num_first) > 0:
                self._of.tpot.observe((seen.last_at - seen.first_at) / num_later)
