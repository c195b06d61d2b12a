"""Metrics of a status document, as a scrape finds them."""

from __future__ import annotations

from dataclasses import replace

from nodes.gateway.exposition import exposition
from nodes.telemetry.counts import FATES
from nodes.telemetry.metrics import mesh
from nodes.telemetry.status import Status
from tests.nodes.status_examples import COUNTS, STATUS
from tests.nodes.telemetry.metrics.exposed import samples_of


def value(status: Status | None, name: str, **labels: str) -> float | None:
    found = samples_of(exposition(mesh.families(status)))
    return found.get((name, frozenset(labels.items())))


def test_what_the_coordinator_counted_is_what_is_scraped() -> None:
    assert value(STATUS, "airdraft_coordinator_up") == 1
    assert value(STATUS, "airdraft_tokens_total", target="big", kind="accepted") == 28
    assert value(STATUS, "airdraft_guesses_total", target="big", position="4") == 9
    assert value(STATUS, "airdraft_guesses_accepted_total", target="big", position="4") == 4
    assert value(STATUS, "airdraft_stream_passes_total", target="big", gamma="4") == 9
    assert value(STATUS, "airdraft_plain_steps_total", target="big", reason="no_draft") == 4
    assert value(STATUS, "airdraft_wire_bytes_total", kind="GuessNotice", direction="in") == 900
    assert value(STATUS, "airdraft_prompt_tokens_total", target="big", source="cache") == 20
    assert value(STATUS, "airdraft_air_reserved_seconds_total", medium="cell-a") == 3.5


def test_what_became_of_guesses_is_told_by_fate_and_by_outcome() -> None:
    fates = {f: value(STATUS, "airdraft_guesses_fate_total", target="big", fate=f) for f in FATES}
    assert fates == COUNTS.guesses
    for outcome, count in (("right", 35), ("wrong", 15)):
        labels = {"target": "big", "outcome": outcome}
        assert value(STATUS, "airdraft_guesses_compared_total", **labels) == count
    assert value(STATUS, "airdraft_guess_messages_total", target="big") == 21


def test_prices_are_told_as_predicted_of_both_ways_and_as_seen() -> None:
    for way, price_s in (("open", 0.049), ("grouped", 0.041)):
        assert value(STATUS, "airdraft_plan_price_seconds", target="big", way=way) == price_s
    assert value(STATUS, "airdraft_observed_price_seconds", target="big") == 0.053
    assert value(STATUS, "airdraft_plan_groups", target="big") == 1


def test_ratios_are_a_histogram_with_its_sum_and_count() -> None:
    labels = {"target": "big", "stage": "plan"}
    (ratio,) = {ratios.total for ratios in COUNTS.ratios.values()}
    assert value(STATUS, "airdraft_stage_time_ratio_sum", **labels) == ratio
    assert value(STATUS, "airdraft_stage_time_ratio_count", **labels) == 10
    assert value(STATUS, "airdraft_stage_time_ratio_bucket", le="1.0", **labels) == 6
    assert value(STATUS, "airdraft_stage_time_ratio_bucket", le="+Inf", **labels) == 10


def test_states_of_a_node_are_one_of_three() -> None:
    states = {
        state: value(STATUS, "airdraft_node_state", node="small", role="draft", state=state)
        for state in mesh.STATES
    }
    assert states == {"ok": 0, "silent": 1, "left": 0}
    # What is not known is not told as a number.
    assert value(STATUS, "airdraft_node_link_bits_per_second", node="big", role="target") is None


def test_streams_that_the_document_left_out_still_wait() -> None:
    assert value(STATUS, "airdraft_streams", phase="waiting") == 3
    assert value(STATUS, "airdraft_streams", phase="decoding") == 2
    assert value(STATUS, "airdraft_streams", phase="parked") == 0


def test_a_target_that_left_keeps_its_counters_only() -> None:
    target = replace(STATUS.targets[0], plan=None, observed=None)
    left = replace(STATUS, targets=(target,))
    assert value(left, "airdraft_passes_total", target="big") == 15
    assert value(left, "airdraft_plan_groups", target="big") is None


def test_without_a_status_there_is_only_that() -> None:
    assert samples_of(exposition(mesh.families(None))) == {
        ("airdraft_coordinator_up", frozenset()): 0.0
    }
