"""What a gateway observes, on a clock that the tests move."""

import pytest
from prometheus_client import generate_latest

from nodes.telemetry.metrics.gateway import GatewayMetrics
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


def test_a_request_from_arrival_to_end(metrics: GatewayMetrics, clock: Clock) -> None:
    request = metrics.request_started(ROUTE)
    request.stream_opened()
    clock.now = 0.2
    request.started(0, 3)
    # The second of its prompts.
    request.started(1, 4)
    clock.now = 0.7
    request.tokens_came(0, 3)
    assert value(metrics, "open_requests", route=ROUTE) == 1
    assert value(metrics, "open_streams") == 1
    clock.now = 1.7
    request.tokens_came(0, 10)
    request.finished(200)
    assert value(metrics, "requests_total", route=ROUTE, status="200") == 1
    assert value(metrics, "open_requests", route=ROUTE) == 0
    assert value(metrics, "open_streams") == 0
    assert value(metrics, "tokens_total", kind="prompt") == 7
    assert value(metrics, "tokens_total", kind="completion") == 13
    assert value(metrics, "queue_wait_seconds_count") == 1
    assert value(metrics, "queue_wait_seconds_sum") == pytest.approx(0.2)
    assert value(metrics, "time_to_first_token_seconds_sum") == pytest.approx(0.7)
    assert value(metrics, "time_per_output_token_seconds_sum") == pytest.approx(0.1)
    assert value(metrics, "request_seconds_sum", route=ROUTE) == pytest.approx(1.7)


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
    assert value(metrics, "time_to_first_token_seconds_count") == 1
    assert value(metrics, "time_per_output_token_seconds_count") == 2
    assert value(metrics, "time_per_output_token_seconds_sum") == pytest.approx(3.0 + 1.0)


def test_requests_that_fail_tell_of_nothing_that_was_not(metrics: GatewayMetrics) -> None:
    request = metrics.request_started(ROUTE)
    request.tokens_came(0, 0)
    request.finished(503)
    request.finished(200)
    request.stream_opened()
    assert value(metrics, "requests_total", route=ROUTE, status="503") == 1
    assert value(metrics, "requests_total", route=ROUTE, status="200") is None
    assert value(metrics, "time_to_first_token_seconds_count") == 0
    assert value(metrics, "queue_wait_seconds_count") == 0
    assert value(metrics, "open_streams") == 0


def test_labels_are_never_what_a_client_says(metrics: GatewayMetrics) -> None:
    for number in range(50):
        metrics.request_started(f"/secret/{number}").finished(404)
        metrics.request_started(ROUTE).finished(10_000 + number)
    assert value(metrics, "requests_total", route="other", status="404") == 50
    assert value(metrics, "requests_total", route=ROUTE, status="500") == 50
    assert b"secret" not in generate_latest(metrics.registry)
