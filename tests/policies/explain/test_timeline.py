"""Schedules worked out by hand, and what holds in every one."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings

from policies.plan import DraftView, Link, Observation
from tests.policies.explain.cases import (
    LINK,
    NAMES,
    NODE,
    SHARED,
    flat,
    in_ms,
    observations,
    played,
    stream,
)


def test_one_batch_goes_round_and_round():
    """Request 5, two steps 20, air 2, answer 5, verify 40: a round of 72 ms."""
    observation = Observation((stream(1),), flat(0.040), (NODE,))
    plan, timeline = played(observation, "max-batch")
    assert plan.prediction.cycle_s == pytest.approx(0.072)
    assert timeline.cycle_s == pytest.approx(0.072)
    assert timeline.end_s == pytest.approx(0.144)
    assert in_ms(timeline) == {
        "draft a": [(1, 5, 25), (1, 77, 97)],
        "air link of a": [(1, 25, 27), (1, 97, 99)],
        "target": [(1, 32, 72), (1, 104, 144)],
    }


def test_a_target_on_the_air_is_told_and_answers_there():
    """As above, and 3 ms on the air before the pass and after it, in nobody's way."""
    observation = Observation(
        (stream(1),), flat(0.040), (NODE,), target_link=Link(frame_s=0.003, medium="cell")
    )
    plan, timeline = played(observation, "max-batch")
    assert plan.prediction.cycle_s == pytest.approx(0.078)
    assert timeline.cycle_s == pytest.approx(0.078)
    assert in_ms(timeline) == {
        "draft a": [(1, 5, 25), (1, 83, 103)],
        "air link of a": [(1, 25, 27), (1, 103, 105)],
        "air cell": [(1, 32, 35), (1, 75, 78), (1, 110, 113), (1, 153, 156)],
        "target": [(1, 35, 75), (1, 113, 153)],
    }


def test_two_batches_keep_the_target_busy():
    """While one is verified for 40 ms the other is drafted: the cycle is twice the verify."""
    observation = Observation((stream(1), stream(2)), flat(0.040), (NODE,))
    _, timeline = played(observation, "alternating")
    assert timeline.cycle_s == pytest.approx(0.080)
    assert in_ms(timeline) == {
        "draft a": [(1, 5, 25), (2, 45, 65), (1, 85, 105), (2, 125, 145)],
        "air link of a": [(1, 25, 27), (2, 65, 67), (1, 105, 107), (2, 145, 147)],
        "target": [(2, 0, 40), (1, 40, 80), (2, 80, 120), (1, 120, 160)],
    }


def test_plain_streams_get_the_passes_between():
    """The target's own pass begins before the guesses are there, at 32, and ends at 40."""
    observation = Observation((stream(1), stream(2, gamma=0)), flat(0.040), (NODE,))
    _, timeline = played(observation, "max-batch", 1)
    assert timeline.cycle_s == pytest.approx(0.080)
    assert in_ms(timeline)["target"] == [(0, 0, 40), (1, 40, 80), (0, 80, 120)]
    # Several are one span: four of 10 ms have begun when the guesses are there.
    _, timeline = played(replace(observation, target=flat(0.010)), "max-batch", 1)
    assert in_ms(timeline)["target"][:2] == [(0, 0, 40), (1, 40, 50)]
    (target,) = [lane for lane in timeline.lanes if lane.kind == "target"]
    assert [span.num_passes for span in target.spans[:2]] == [4, 1]


def test_nodes_take_turns_on_their_medium_or_share_it():
    nodes = (DraftView("a", flat(0.010), SHARED), DraftView("b", flat(0.010), SHARED))
    observation = Observation((stream(1), stream(2, draft="b")), flat(0.040), nodes)
    _, timeline = played(observation, "max-batch", 1)
    assert in_ms(timeline) == {
        "draft a": [(1, 5, 25)],
        "draft b": [(1, 5, 25)],
        "air cell": [(1, 25, 27), (1, 27, 29)],
        "target": [(1, 34, 74)],
    }
    _, timeline = played(observation, "uniform-air", 1)
    assert in_ms(timeline)["air cell"] == [(1, 25, 29)]
    assert in_ms(timeline)["target"] == [(1, 34, 74)]


def test_without_overlap_one_batch_waits_for_the_other():
    slow = DraftView("a", flat(0.060), LINK)
    observation = Observation((stream(1), stream(2)), flat(0.040), (slow,))
    plan, timeline = played(observation, "no-overlap")
    batches = len(plan.batches)
    times = sorted((s.start_s, s.end_s, s.batch) for lane in timeline.lanes for s in lane.spans)
    assert timeline.cycle_s == pytest.approx(0.172 * batches)
    for (_, end_s, batch), (start_s, _, following) in pairwise(times):
        if batch != following:
            assert start_s >= end_s


def test_without_guesses_the_target_is_all_there_is():
    observation = Observation((stream(1, gamma=0),), flat(0.040), (NODE,))
    _, timeline = played(observation, "ad")
    assert [(lane.kind, lane.spans[0].num_passes >= 2) for lane in timeline.lanes] == [
        ("target", True)
    ]
    assert timeline.cycle_s is None


@settings(max_examples=60)
@given(observations(), NAMES)
def test_nobody_does_two_things_at_once_and_nothing_comes_too_early(observation, policy):
    plan, timeline = played(observation, policy, 3)
    lanes = {(lane.kind, lane.name): lane.spans for lane in timeline.lanes}
    for spans in lanes.values():
        for before, after in pairwise(spans):
            assert after.start_s >= before.end_s - 1e-12
    verified = lanes["target", ""]
    for m, batch in enumerate(plan.batches, 1):
        holders = {observation.streams[s - 1].draft for s in batch.stream_ids}
        ends = [s.end_s for s in verified if s.batch == m]
        starts = [s.start_s for s in verified if s.batch == m]
        for node in observation.drafts:
            drafted = [s for s in lanes.get(("draft", node.name), ()) if s.batch == m]
            if node.name not in holders:
                assert drafted == []
                continue
            # Between two passes of a batch each of its nodes has drafted, and its message gone.
            half_s = node.link.rtt_s / 2
            for ended_s, start_s in zip(ends, starts[1:], strict=False):
                between = [s for s in drafted if ended_s <= s.start_s < start_s]
                assert len(between) == 1
                assert between[0].start_s >= ended_s + half_s - 1e-12
                assert start_s >= between[0].end_s + half_s + 2 * node.link.frame_s - 1e-12
    # The target does not idle while there are plain streams.
    if plan.plain:
        for before, after in pairwise(verified):
            assert after.start_s == pytest.approx(before.end_s, abs=1e-9)


@settings(max_examples=60)
@given(observations(own_media=True).filter(lambda o: all(v.draft for v in o.streams)))
def test_a_single_batch_takes_the_lap_that_the_price_is_made_of(observation):
    """With nobody to wait for, the schedule and the closed form of the cycle are the same."""
    plan, timeline = played(observation, "fixed-gamma")
    if plan.batches and not plan.plain:
        assert timeline.cycle_s == pytest.approx(plan.prediction.cycle_s, rel=1e-9)
