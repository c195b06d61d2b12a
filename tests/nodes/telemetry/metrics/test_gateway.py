"""What a gateway observes, on a clock that the tests move."""

import pytest
from prometheus_client import generate_latest

from airdraft.nodes.telemetry.metrics.gateway import GatewayMetrics
from tests.nodes.gateway.fake_mesh import Clock
from tests.nodes.telemetry.metrics.exposed import value_of

ROUTE = "/v1/completions"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> GatewayMetrics:
    return GatewayMetrics([ROUTE], clock)


def value(metrics: GatewayMetrics, name: str, **labels: str) -> float | None:
    return value_of(generate_latest(metrics.registry), f"gateway_{name}", **labels)


def test_choices_are_timed_apart_and_the_first_token_once(
    metrics: GatewayMetrics, clock: Clock
) -> None:
    request = metrics.request_started(ROUTE)
    for choice in (0, 1):
        clock.now += 1.0
        request.tokens_came(choice, 1)
    clock.now = 4.0
    request.tokens_came(0, 1)
    request.tokens_came(1, 2)
    request.finished(200)
    assert value(metrics, "requests_total", route=ROUTE, status="200") == 1
    assert value(metrics, "time_to_first_token_seconds_count") == 1
    assert value(metrics, "time_to_first_token_seconds_sum") == 1.0
    assert value(metrics, "time_per_output_token_seconds_count") == 2
    # 3 s for a token of one choice, and 2 s for two of the other.
    assert value(metrics, "time_per_output_token_seconds_sum") == pytest.approx(3.0 + 1.0)


def test_requests_that_fail_tell_of_nothing_that_was_not(metrics: GatewayMetrics) -> None:
    request = metrics.request_started(ROUTE)
    request.tokens_came(0, 0)
    request.finished(503)
    request.finished(200)
    assert value(metrics, "requests_total", route=ROUTE, status="503") == 1
    assert value(metrics, "requests_total", route=ROUTE, status="200") is None
    assert value(metrics, "time_to_first_token_seconds_count") == 0


def test_labels_are_never_what_a_client_says(metrics: GatewayMetrics) -> None:
    for number in range(50):
        metrics.request_started(f"/secret/{number}").finished(404)
        metrics.request_started(ROUTE).finished(10_000 + number)
    assert value(metrics, "requests_total", route="other", status="404") == 50
    assert value(metrics, "requests_total", route=ROUTE, status="500") == 50
    assert b"secret" not in generate_latest(metrics.registry)
