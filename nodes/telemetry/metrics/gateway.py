"""Metrics that a gateway measures itself: its HTTP requests and the times of tokens. Pure.

No label comes from a client: routes and kinds are from fixed sets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry

from nodes.telemetry.metrics.families import Metric

OTHER: Final = "other"
_UP_TO_60_S: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
_A_TOKEN: Final = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_UP_TO_600_S: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

REQUESTS: Final = Metric(
    "airdraft_gateway_requests_total",
    "counter",
    "HTTP requests that have ended.",
    ("route", "status"),
)
TOKENS: Final = Metric(
    "airdraft_gateway_tokens_total", "counter", "Tokens of prompts and of answers.", ("kind",)
)
OPEN: Final = Metric("airdraft_gateway_open_requests", "gauge", "Requests under way.", ("route",))
STREAMS: Final = Metric("airdraft_gateway_open_streams", "gauge", "Event streams that are open.")
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
QUEUE: Final = Metric(
    "airdraft_gateway_queue_wait_seconds",
    "histogram",
    "Time from a request's arrival to its place on a target.",
)
DURATION: Final = Metric(
    "airdraft_gateway_request_seconds", "histogram", "Time from arrival to end.", ("route",)
)
METRICS: Final = (REQUESTS, TOKENS, OPEN, STREAMS, TTFT, TPOT, QUEUE, DURATION)


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
        self.num_streams = 0
        registry = self.registry = CollectorRegistry()
        self._requests = REQUESTS.counter(registry)
        tokens = TOKENS.counter(registry)
        self.prompt_tokens, self.tokens = tokens.labels("prompt"), tokens.labels("completion")
        self._open = OPEN.gauge(registry)
        STREAMS.gauge(registry).set_function(lambda: self.num_streams)
        self.ttft = TTFT.histogram(registry, _UP_TO_60_S)
        self.tpot = TPOT.histogram(registry, _A_TOKEN)
        self.queue = QUEUE.histogram(registry, _UP_TO_60_S)
        self._durations = DURATION.histogram(registry, _UP_TO_600_S)

    def request_started(self, path: str) -> RequestMetrics:
        """Count a request that has arrived; its finished() must be called in every case."""
        route = self._route_of(path)
        self._open.labels(route).inc()
        return RequestMetrics(self, route, self.clock())

    def _route_of(self, path: str) -> str:
        if path in self._routes:
            return path
        found = next((prefix for prefix in self._prefixes if path.startswith(prefix)), None)
        return OTHER if found is None else found + "{id}"

    def request_over(self, route: str, status: int, seconds: float) -> None:
        self._open.labels(route).dec()
        # An invalid status counts as 500, so that a bug cannot make labels without limit.
        self._requests.labels(route, status if 100 <= status <= 599 else 500).inc()
        self._durations.labels(route).observe(seconds)


@dataclass(slots=True)
class RequestMetrics:
    """The measurements of one request, from its arrival on."""

    _of: GatewayMetrics
    _route: str
    _arrived_at: float
    _choices: dict[int, _Choice] = field(default_factory=dict)
    _placed: set[int] = field(default_factory=set)
    _is_stream: bool = False
    _is_over: bool = False

    def started(self, prompt_index: int, num_prompt_tokens: int) -> None:
        """Record that a prompt has a place on a target (StartedNotice); later places of it are
        ignored.

        If a request has several prompts, the first one ends its waiting time.
        """
        if not self._placed:
            self._of.queue.observe(self._of.clock() - self._arrived_at)
        if prompt_index not in self._placed:
            self._placed.add(prompt_index)
            self._of.prompt_tokens.inc(num_prompt_tokens)

    def embedded(self, num_tokens: int) -> None:
        """Count the tokens of texts that were embedded, which wait for no place."""
        self._of.prompt_tokens.inc(num_tokens)

    def stream_opened(self) -> None:
        """Record that the answer is an event stream."""
        if not self._is_stream and not self._is_over:
            self._is_stream = True
            self._of.num_streams += 1

    def tokens_came(self, choice: int, num_tokens: int) -> None:
        """Count tokens. choice: Any number that identifies one of the request's texts."""
        if num_tokens <= 0:
            return
        now = self._of.clock()
        self._of.tokens.inc(num_tokens)
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
        self._of.num_streams -= self._is_stream
        self._of.request_over(self._route, status, self._of.clock() - self._arrived_at)
        for seen in self._choices.values():
            if (num_later := seen.num_tokens - seen.num_first) > 0:
                self._of.tpot.observe((seen.last_at - seen.first_at) / num_later)
