"""Metrics of a status document, as a scrape finds them."""

from dataclasses import replace

import pytest
from prometheus_client import generate_latest

from nodes.telemetry.counts import FATES
from nodes.telemetry.metrics.mesh import MeshMetrics
from nodes.telemetry.status import Status
from tests.nodes.status_examples import COUNTS, STATUS
from tests.nodes.telemetry.metrics.exposed import samples_of, value_of


def value(status: Status | None, name: str, **labels: str) -> float | None:
    return value_of(generate_latest(MeshMetrics(status)), name, **labels)


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("coordinator_up", {}, 1),
        ("tokens_total", {"target": "big", "kind": "accepted"}, 28),
        ("guesses_total", {"target": "big", "position": "4"}, 9),
        ("guesses_accepted_total", {"target": "big", "position": "4"}, 4),
        ("stream_passes_total", {"target": "big", "gamma": "4"}, 9),
        ("plain_steps_total", {"target": "big", "reason": "no_draft"}, 4),
        ("wire_bytes_total", {"kind": "GuessNotice", "direction": "in"}, 900),
        ("prompt_tokens_total", {"target": "big", "source": "cache"}, 20),
        ("air_reserved_seconds_total", {"medium": "cell-a"}, 3.5),
        *(
            ("guesses_fate_total", {"target": "big", "fate": fate}, COUNTS.guesses[fate])
            for fate in FATES
        ),
        ("guesses_compared_total", {"target": "big", "outcome": "right"}, 35),
        ("guesses_compared_total", {"target": "big", "outcome": "wrong"}, 15),
        ("guess_messages_total", {"target": "big"}, 21),
        ("plan_price_seconds", {"target": "big", "way": "open"}, 0.049),
        ("plan_price_seconds", {"target": "big", "way": "grouped"}, 0.041),
        ("observed_price_seconds", {"target": "big"}, 0.053),
        ("plan_groups", {"target": "big"}, 1),
        ("stage_time_ratio_sum", {"target": "big", "stage": "plan"}, 11.5),
        ("stage_time_ratio_count", {"target": "big", "stage": "plan"}, 10),
        ("stage_time_ratio_bucket", {"target": "big", "stage": "plan", "le": "1.0"}, 6),
        ("stage_time_ratio_bucket", {"target": "big", "stage": "plan", "le": "+Inf"}, 10),
        ("node_state", {"node": "small", "role": "draft", "state": "ok"}, 0),
        ("node_state", {"node": "small", "role": "draft", "state": "silent"}, 1),
        ("node_state", {"node": "small", "role": "draft", "state": "left"}, 0),
        # What is not known is not told as a number.
        ("node_link_bits_per_second", {"node": "big", "role": "target"}, None),
        # Streams that the document left out are counted as well.
        ("streams", {"phase": "waiting"}, 3),
        ("streams", {"phase": "reading"}, 0),
        ("streams", {"phase": "decoding"}, 600),
        ("streams", {"phase": "parked"}, 1),
    ],
)
def test_what_the_coordinator_knows_is_what_is_scraped(
    name: str, labels: dict[str, str], expected: float | None
) -> None:
    assert value(STATUS, name, **labels) == expected


def test_a_target_that_left_keeps_its_counters_only() -> None:
    target = replace(STATUS.targets[0], plan=None, observed=None)
    left = replace(STATUS, targets=(target,))
    assert value(left, "passes_total", target="big") == 15
    assert value(left, "plan_groups", target="big") is None


def test_without_a_status_there_is_only_that() -> None:
    assert samples_of(generate_latest(MeshMetrics(None))) == {
        ("airdraft_coordinator_up", frozenset()): 0.0
    }


def test_names_of_nodes_are_quoted_and_the_same_one_twice_is_one() -> None:
    name = 'a"b\\c\nd'
    node = replace(STATUS.nodes[0], name=name, silent_s=1.5)
    twins = replace(STATUS, nodes=(replace(node, silent_s=0.5), node))
    assert value(twins, "node_silent_seconds", node=name, role=node.role) == 1.5
