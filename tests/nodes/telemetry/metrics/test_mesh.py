"""Metrics of a status document, as a scrape finds them."""

from dataclasses import replace

from prometheus_client import generate_latest

from airdraft.nodes.telemetry.metrics.mesh import MeshMetrics
from airdraft.nodes.telemetry.status import Status
from tests.nodes.status_examples import STATUS
from tests.nodes.telemetry.metrics.exposed import Samples, samples_of


def scraped(status: Status | None) -> Samples:
    return samples_of(generate_latest(MeshMetrics(status)))


def test_what_the_coordinator_knows_is_what_is_scraped() -> None:
    found = scraped(STATUS)
    for name, labels, value in (
        ("up", {"role": "coordinator", "node": ""}, 1),
        ("up", {"role": "target", "node": "big"}, 1),
        # It is silent.
        ("up", {"role": "draft", "node": "small"}, 0),
        ("requests_total", {"outcome": "done"}, 1),
        ("tokens_total", {"target": "big", "kind": "accepted"}, 28),
        # Of four positions: 12, 12, 11 and 9 were taken, and 10, 8, 6 and 4 accepted.
        ("guesses_total", {"target": "big", "outcome": "accepted"}, 28),
        ("guesses_total", {"target": "big", "outcome": "refused"}, 16),
        ("passes_total", {"target": "big"}, 15),
        ("node_wire_bytes_total", {"role": "draft", "node": "small", "direction": "in"}, 9_000),
        ("node_wire_bytes_total", {"role": "draft", "node": "small", "direction": "out"}, 7_000),
        # Streams that the document left out are counted as well.
        ("streams", {"phase": "waiting"}, 3),
        ("streams", {"phase": "reading"}, 0),
        ("streams", {"phase": "decoding"}, 600),
        ("streams", {"phase": "parked"}, 1),
    ):
        assert found[f"airdraft_{name}", frozenset(labels.items())] == value, (name, labels)


def test_without_a_status_there_is_only_that() -> None:
    coordinator = frozenset({"role": "coordinator", "node": ""}.items())
    assert scraped(None) == {("airdraft_up", coordinator): 0.0}


def test_names_of_nodes_are_quoted_and_the_same_one_twice_is_one() -> None:
    node = replace(STATUS.nodes[0], name='a"b\\c\nd', state="left")
    found = scraped(replace(STATUS, nodes=(node, replace(node, state="ok"))))
    assert found["airdraft_up", frozenset({"role": "target", "node": node.name}.items())] == 1
