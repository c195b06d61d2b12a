"""Explanations: schedules and prices worked out by hand, texts that fit and say what is so."""

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.baselines import POLICIES
from policies.explain import as_object, explain, text_of
from policies.explain.drawing import lane_text, timeline_lines
from policies.explain.explanation import ranges
from policies.explain.timeline import Lane, Span, Timeline, timeline_of
from policies.latency import CostTable, NodeCosts
from policies.plan import (
    ENTRY_BITS,
    HEADER_BITS,
    MAX_AUTO_GAMMA,
    DraftView,
    Link,
    Observation,
    StreamView,
)
from policies.problem import problem_of


def flat(seconds):
    """A node on which any pass takes the same time."""
    table = CostTable((1, 1000), (seconds, seconds))
    return NodeCosts(table, table)


def line(first_s, slope_s):
    """A node on which every further token of a pass takes slope_s."""
    table = CostTable((1, 1001), (first_s, first_s + 1000 * slope_s))
    return NodeCosts(table, table)


def stream(number, alpha=0.8, gamma=2, draft="a", **more):
    return StreamView(number, alpha, 500, fixed_gamma=gamma, draft=draft, **more)


# A message takes 1 ms of the medium whatever its size, 10 ms there and back.
LINK = Link(rtt_s=0.010, frame_s=0.001)
NODE = DraftView("a", flat(0.010), LINK)
SHARED = Link(rtt_s=0.010, frame_s=0.001, medium="cell")


def played(observation, policy, num_cycles=2):
    plan = POLICIES[policy](observation)
    return plan, timeline_of(problem_of(observation), plan, num_cycles)


def in_ms(timeline):
    """Spans of each lane in ms: (batch, start, end)."""
    return {
        f"{lane.kind} {lane.name}".strip(): [
            (s.batch, round(1e3 * s.start_s, 6), round(1e3 * s.end_s, 6)) for s in lane.spans
        ]
        for lane in timeline.lanes
    }


# -- the schedule, by hand -------------------------------------------------------------------------


def test_one_batch_goes_round_and_round():
    """Request 5, two steps 20, air 2, answer 5, verify 40: a lap of 72 ms."""
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


def test_several_plain_passes_are_one_span():
    observation = Observation((stream(1), stream(2, gamma=0)), flat(0.010), (NODE,))
    _, timeline = played(observation, "max-batch", 1)
    (target,) = [lane for lane in timeline.lanes if lane.kind == "target"]
    # 32 ms until the guesses are there: four passes of 10 have begun by then.
    assert [(s.batch, s.num_passes) for s in target.spans[:2]] == [(0, 4), (1, 1)]
    assert target.spans[1].start_s == pytest.approx(0.040)


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


# -- the schedule, whatever the scenario -----------------------------------------------------------

MS = st.integers(1, 60).map(lambda ms: ms * 1e-3)


@st.composite
def observations(draw, max_streams=8, max_nodes=3, rate_bps=20e3, own_media=False):
    num_nodes = draw(st.integers(1, max_nodes))
    nodes = [
        DraftView(
            f"n{j}",
            line(draw(MS), draw(MS) / 20),
            Link(
                rate_bps=rate_bps * draw(st.integers(1, 50)),
                rtt_s=draw(MS),
                medium="" if own_media else draw(st.sampled_from(["", "x", "y"])),
                frame_s=draw(MS) / 10,
            ),
        )
        for j in range(num_nodes)
    ]
    streams = [
        StreamView(
            number,
            draw(st.floats(0.05, 0.98)),
            draw(st.integers(1, 300)),
            fixed_gamma=draw(st.sampled_from([None, None, None, 0, 2, 12])),
            draft=draw(st.sampled_from([None, *(n.name for n in nodes), *(n.name for n in nodes)])),
            weight=draw(st.sampled_from([1.0, 1.0, 3.0])),
        )
        for number in range(1, draw(st.integers(1, max_streams)) + 1)
    ]
    return Observation(
        tuple(streams),
        line(draw(MS), draw(MS) / 20),
        tuple(nodes),
        prefill_share=draw(st.sampled_from([0.0, 0.3])),
    )


NAMES = st.sampled_from(list(POLICIES))


@settings(max_examples=60, deadline=None)
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


@settings(max_examples=60, deadline=None)
@given(observations(own_media=True).filter(lambda o: all(v.draft for v in o.streams)))
def test_a_single_batch_takes_the_lap_that_the_price_is_made_of(observation):
    """With nobody to wait for, the schedule and the closed form of the cycle are the same."""
    plan, timeline = played(observation, "fixed-gamma")
    if plan.batches and not plan.plain:
        assert timeline.cycle_s == pytest.approx(plan.prediction.cycle_s, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(observations(), NAMES)
def test_media_are_held_as_long_as_the_bits_take(observation, policy):
    """Seconds of the air of one round, added up from the messages; shares make it longer."""
    plan, timeline = played(observation, policy, 4)
    lanes = {(lane.kind, lane.name): lane.spans for lane in timeline.lanes}
    for m, batch in enumerate(plan.batches, 1):
        air_s: dict[str, float] = {}
        for node in observation.drafts:
            pairs = zip(batch.stream_ids, batch.gammas, strict=True)
            gammas = [g for s, g in pairs if observation.streams[s - 1].draft == node.name]
            if gammas:
                bits = 2 * HEADER_BITS + sum(2 * ENTRY_BITS + 32 + 2 * 32 * g for g in gammas)
                medium = node.link.medium or f"link of {node.name}"
                needed_s = 2 * node.link.frame_s + bits / node.link.rate_bps
                air_s[medium] = air_s.get(medium, 0.0) + needed_s
        passes = [s for s in lanes["target", ""] if s.batch == m]
        for medium, needed_s in air_s.items():
            if len(passes) < 2:
                continue
            start_s, end_s = passes[0].end_s, passes[1].start_s
            mine = [s for s in lanes["air", medium] if s.batch == m]
            held_s = sum(s.end_s - s.start_s for s in mine if start_s <= s.start_s < end_s)
            if plan.equal_shares:
                assert held_s >= needed_s - 1e-9
            else:
                assert held_s == pytest.approx(needed_s, rel=1e-9)


# -- prices of changes, by hand --------------------------------------------------------------------


def lone_price_s(gamma, alpha):
    """A stream alone on NODE and a target of line(0.040, 0.002): its lap over what it earns."""
    if gamma == 0:
        return 0.040
    earned = sum(alpha**k for k in range(gamma + 1))
    return (0.010 * gamma + 0.012 + 0.040 + 0.002 * gamma) / earned


def free(number, alpha):
    return StreamView(number, alpha, 500, draft="a")


def test_changes_of_a_lone_stream():
    observation = Observation((free(1, 0.9),), line(0.040, 0.002), (NODE,))
    best = min(range(MAX_AUTO_GAMMA + 1), key=lambda gamma: lone_price_s(gamma, 0.9))
    assert 1 < best < MAX_AUTO_GAMMA
    found = explain(observation, "joint")
    assert found.plan.batches[0].gammas == (best,)
    expected = {
        "a guess fewer": lone_price_s(best - 1, 0.9),
        "a guess more": lone_price_s(best + 1, 0.9),
        "no guesses": 0.040,
    }
    assert {c.what: c.price_s for c in found.changes} == pytest.approx(expected)
    assert {c.batch for c in found.changes} == {0}
    relative = found.relative(found.changes[0].price_s)
    assert relative == pytest.approx(lone_price_s(best - 1, 0.9) / lone_price_s(best, 0.9) - 1)


def test_changes_where_nobody_guesses():
    observation = Observation((free(1, 0.2),), line(0.040, 0.002), (NODE,))
    (change,) = explain(observation, "joint").changes
    price_s, gamma = min((lone_price_s(g, 0.2), g) for g in range(1, MAX_AUTO_GAMMA + 1))
    assert gamma == 1
    assert change.what == "1 guess each in 1 batch"
    assert change.price_s == pytest.approx(price_s)


def test_changes_of_two_batches():
    """Cycles by hand: the target or a lap, whichever is longer; drafts are never the longest."""
    observation = Observation((free(1, 0.7), free(2, 0.9)), flat(0.040), (NODE,))
    found = explain(observation, "alternating")
    (low,), (high,) = (batch.gammas for batch in found.plan.batches)

    def price_s(first, second):
        # Two steps at most 8 each: a node that drafts for both is busy for 10 ms a guess.
        laps = [0.010 * gamma + 0.012 + 0.040 for gamma in (first, second)]
        cycle_s = max(0.080, 0.010 * (first + second), *laps)
        return cycle_s * (
            1 / sum(0.7**k for k in range(first + 1)) + 1 / sum(0.9**k for k in range(second + 1))
        )

    assert found.prediction.price_s == pytest.approx(price_s(low, high))
    prices = {(c.batch, c.what): c.price_s for c in found.changes}
    assert prices[0, "a guess more"] == pytest.approx(price_s(low + 1, high + 1))
    assert prices[1, "a guess fewer"] == pytest.approx(price_s(low - 1, high))
    assert prices[2, "a guess more"] == pytest.approx(price_s(low, high + 1))
    # In one batch the drafts of both are made in the same steps.
    cycle_s = 0.010 * max(low, high) + 0.012 + 0.040
    earned = [sum(a**k for k in range(g + 1)) for a, g in ((0.7, low), (0.9, high))]
    assert prices[0, "1 batch"] == pytest.approx(cycle_s * sum(1 / e for e in earned))
    assert prices[0, "no guesses"] == pytest.approx(0.080)
    assert (0, "3 batches") not in prices


def test_what_clients_asked_for_is_not_changed():
    streams = (stream(1, gamma=3), stream(2, gamma=0), stream(3, draft=None, gamma=None))
    found = explain(Observation(streams, flat(0.040), (NODE,)), "max-batch")
    assert found.changes == ()
    assert (found.acceptance, found.turning_acceptance) == (None, None)
    assert [ids for _, ids in found.plain_groups()] == [(2,), (3,)]
    one_left = StreamView(1, 0.9, 1, draft="a")
    assert explain(Observation((one_left,), flat(0.040), (NODE,)), "joint").changes == ()


def test_guesses_that_were_asked_for_stay():
    streams = (free(1, 0.9), free(2, 0.9), stream(3, 0.5, 3))
    found = explain(Observation(streams, flat(0.040), (NODE,)), "max-batch")
    (change,) = [c for c in found.changes if c.what.startswith("no guesses")]
    assert change.what == "no guesses but those asked for"
    # A flat target: three guesses of one stream, and its passes for the others beside it and
    # between: one a lap, which is 30 + 12 + 40 + half a plain pass, and one of the rest.
    lap_s = 0.030 + 0.012 + 0.040 + 0.020
    passes = 1 + (lap_s - 0.040) / 0.040
    assert change.price_s == pytest.approx(lap_s / 1.875 + 2 * lap_s / passes)


def test_plain_streams_could_guess_too():
    streams = (free(1, 0.05), free(2, 0.95), free(3, 0.95))
    slow = DraftView("a", line(0.004, 0.004), LINK)
    found = explain(Observation(streams, line(0.040, 0.010), (slow,)), "joint")
    assert found.plan.plain == (1,)
    (change,) = [c for c in found.changes if c.what == "no plain streams"]
    assert found.relative(change.price_s) > 0


@pytest.mark.parametrize("policy", ["joint", "max-batch"])
@pytest.mark.parametrize("alpha", [0.15, 0.9])
def test_where_the_decision_turns(alpha, policy):
    """As a scan over acceptances finds it; guesses there are worth about what they cost."""

    def observation(alpha):
        return Observation((free(1, alpha),), line(0.040, 0.002), (NODE,))

    found = explain(observation(alpha), policy)
    turning = next(a / 500 for a in range(500) if POLICIES[policy](observation(a / 500)).batches)
    assert found.acceptance == alpha
    assert found.turning_acceptance == pytest.approx(turning, abs=0.006)
    gain = min(lone_price_s(g, found.turning_acceptance) for g in range(1, 9)) / 0.040
    assert 0.9 < gain < 1.01


def test_no_acceptance_turns_a_hopeless_link():
    far = DraftView("a", flat(0.010), Link(rtt_s=30.0))
    found = explain(Observation((free(1, 0.5),), flat(0.040), (far,)), "joint")
    assert found.plan.batches == ()
    assert found.turning_acceptance is None


# -- what other policies would do ------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(observations(max_streams=6), NAMES)
def test_every_policy_is_compared_and_the_best_rejected_is_the_cheapest(observation, policy):
    found = explain(observation, policy)
    plans = {name: make(observation) for name, make in POLICIES.items()}
    assert [item.name for item in found.compared] == list(POLICIES)
    for item in found.compared:
        assert item.prediction == plans[item.name].prediction
    assert found.plan == plans[policy]
    others = [item for item in found.compared if not item.is_same]
    assert policy not in {item.name for item in others}
    if found.best_rejected is None:
        assert others == []
    else:
        cheapest_s = min(item.prediction.price_s for item in others)
        assert found.best_rejected in others
        assert found.best_rejected.prediction.price_s == cheapest_s


def test_policies_with_the_same_plan_are_no_alternatives():
    observation = Observation((free(1, 0.9),), line(0.040, 0.002), (NODE,))
    same = {item.name: item.is_same for item in explain(observation, "joint").compared}
    assert same["max-batch"]
    assert same["alternating"]
    assert not same["ad"]
    # One batch over a medium of its own: neither turns nor shares, nothing to overlap with.
    assert same["uniform-air"]
    assert same["no-overlap"]


def test_expected_tokens_of_each_batch():
    observation = Observation((stream(1, 0.5), stream(2, 0.8, 3)), flat(0.04), (NODE,))
    found = explain(observation, "max-batch")
    assert found.expected_tokens == pytest.approx((1.75 + 1 + 0.8 + 0.64 + 0.512,))


@given(st.sets(st.integers(0, 60)))
def test_ranges_hold_every_number_once(numbers):
    text = ranges(numbers)
    back = []
    for piece in filter(None, text.split(",")):
        first, _, last = piece.partition("-")
        back += range(int(first), int(last or first) + 1)
    assert back == sorted(numbers)
    assert len(text.split(",")) == max(1, sum(n - 1 not in numbers for n in numbers))


# -- texts -----------------------------------------------------------------------------------------


def test_a_row_shows_who_holds_most_of_a_column():
    spans = (Span(1, 0.0, 2.0), Span(2, 2.0, 3.4), Span(0, 3.4, 5.0), Span(3, 5.2, 5.3))
    assert lane_text(spans, 1.0, 8) == "112pp3.."
    assert lane_text(spans, 2.0, 4) == "12p."
    assert lane_text((), 1.0, 3) == "..."
    # What began before and ends after the picture is cut; letters follow 9 and begin anew.
    wide = (Span(10, -5.0, 1.0), Span(35, 1.0, 2.0), Span(36, 2.0, 99.0))
    assert lane_text(wide, 1.0, 4) == "AZ11"
    # Half a column and no more: the first of two halves.
    assert lane_text((Span(1, 0.0, 0.5), Span(2, 0.5, 1.0)), 1.0, 1) == "1"


def test_rows_and_scale_of_a_timeline():
    lanes = (
        Lane("draft", "a", (Span(1, 0.0, 0.01),)),
        Lane("draft", "a-node-with-a-long-name", (Span(1, 0.01, 0.02),)),
        Lane("target", "", (Span(1, 0.02, 0.04),)),
    )
    rows, column_s = timeline_lines(Timeline(0.04, None, lanes), 62)
    assert column_s == pytest.approx(0.001)
    assert rows == [
        "draft a               " + "1" * 10 + "." * 30,
        "draft a-node-with-a~  " + "." * 10 + "1" * 10 + "." * 20,
        "target                " + "." * 20 + "1" * 20,
        "                      |0 ms     |10       |20       |30",
    ]


def test_a_text_says_what_was_planned_and_why():
    streams = (
        StreamView(1, 0.9, 500, draft="a"),
        StreamView(2, 0.9, 500, draft="a"),
        StreamView(3, 0.9, 1, draft="a", weight=2.0),
        stream(4, 0.7, 0),
    )
    found = explain(Observation(streams, line(0.040, 0.002), (NODE,)), "max-batch")
    (batch,) = found.plan.batches
    text = text_of(found, "a test")
    assert text.startswith("a test: 4 streams, 1 draft node; policy max-batch\n")
    assert "streams 1-2: acceptance 0.90, 500 tokens left, draft a\n" in text
    assert "stream 3: acceptance 0.90, 1 token left, draft a, weight 2\n" in text
    assert "stream 4: acceptance 0.70, 500 tokens left, draft a, gamma 0 asked for\n" in text
    times = found.prediction.batches[0]
    row = next(line.split() for line in text.splitlines() if line.startswith("1 "))
    assert row[:3] == ["1", "1-2", str(batch.gammas[0])]
    in_ms = [1e3 * s for s in (times.draft_s, times.air_s, times.verify_s, times.lap_s)]
    assert [float(cell) for cell in row[3:7]] == pytest.approx(in_ms, abs=0.051)
    assert row[7] == str(times.num_tokens)
    plain = next(line.split() for line in text.splitlines() if line.startswith("plain "))
    # Two tokens in a pass of the plain streams.
    assert plain == ["plain", "3-4", "0", "-", "-", "42.0", "42.0", "2", "2.0"]
    assert f"predicted: a cycle of {1e3 * found.prediction.cycle_s:.1f} ms" in text
    mean_ms = 1e3 * found.prediction.price_s / 5
    assert re.search(rf"price {mean_ms:.1f} ms a token\s+\(mean", text)
    assert re.search(r"^max-batch .*<- chosen$", text, re.M)
    assert re.search(rf"^{found.best_rejected.name} .*best rejected$", text, re.M)
    assert "stream 3 is plain: draft off: one token is left" in text
    assert "stream 4 is plain: draft off: gamma 0 was asked for" in text
    assert re.search(r"^draft a .*1", text, re.M)
    assert re.search(r"^target .*p", text, re.M)
    worse = found.relative(found.changes[-1].price_s)
    assert f"no guesses {worse:.1%} dearer" in " ".join(text.split())


def test_different_guesses_of_a_batch_have_a_row_each():
    streams = tuple(stream(n, gamma=2 if n % 2 else 3) for n in range(1, 41))
    found = explain(Observation(streams, flat(0.04), (NODE,)), "max-batch")
    lines = text_of(found, "x").splitlines()
    start = next(k for k, row in enumerate(lines) if row.startswith("1 "))
    cells = [row.split() for row in lines[start : start + 12]]
    odd = "".join(row[1 if k == 0 else 0] for k, row in enumerate(cells[:4]))
    assert cells[0][2] == "2"
    assert odd.startswith("1,3,5,7,")
    assert any(row[1:] == ["3"] for row in cells)


def test_many_batches_are_cut_short():
    streams = tuple(stream(n) for n in range(1, 41))
    found = explain(Observation(streams, flat(0.04), (NODE,)), "single-stream")
    text = text_of(found, "x")
    assert "\nand 24 more batches\n" in text
    # Too many to look at them one by one.
    assert {change.batch for change in found.changes} == {0}


def test_a_small_gain_is_not_trusted():
    """Guesses 1 % cheaper than plain decoding: the joint policy wants more, and says so."""
    alpha = next(
        a / 10000
        for a in range(10000)
        if min(lone_price_s(g, a / 10000) for g in range(1, 9)) < 0.99 * 0.040
    )
    observation = Observation((free(1, alpha),), line(0.040, 0.002), (NODE,))
    text = text_of(explain(observation, "joint"), "x")
    assert "1.0% cheaper" in text
    assert "so small a gain is not trusted" in text
    assert "not trusted" not in text_of(explain(observation, "ad"), "x")


def test_acceptance_by_position_is_shown():
    view = StreamView(1, 0.6, 9, draft="a", alphas=(0.9, 0.5, 0.5, 0.5))
    text = text_of(explain(Observation((view,), flat(0.04), (NODE,)), "joint"), "x")
    assert "acceptance 0.90, 0.50 by position (0.60 in all)" in text


@settings(max_examples=25, deadline=None)
@given(observations(), NAMES)
def test_every_text_fits_and_every_object_is_json(observation, policy):
    found = explain(observation, policy)
    text = text_of(found, "some name of a scenario")
    assert text.isascii()
    assert [row for row in text.splitlines() if len(row) > 80 or row != row.rstrip()] == []
    read = json.loads(json.dumps(as_object(found), allow_nan=False))
    assert [item["streams"] for item in read["batches"]] == [
        list(batch.stream_ids) for batch in found.plan.batches
    ]


def keys_of(value):
    if isinstance(value, dict):
        for key, below in value.items():
            yield key
            yield from keys_of(below)
    elif isinstance(value, list | tuple):
        for below in value:
            yield from keys_of(below)


def test_the_object_is_documented_and_agrees_with_the_plan():
    streams = (free(1, 0.9), free(2, 0.9), stream(3, gamma=0))
    found = explain(Observation(streams, line(0.040, 0.002), (NODE,)), "max-batch")
    written = as_object(found)
    words = set(re.findall(r"\w+", as_object.__doc__))
    assert set(keys_of(written)) <= words
    (batch,) = written["batches"]
    plan = found.plan
    assert (batch["streams"], batch["gammas"]) == ([1, 2], list(plan.batches[0].gammas))
    assert batch["lap_s"] == plan.prediction.batches[0].lap_s
    assert batch["grants"] == ["a"]
    assert written["plain"] == [{"streams": [3], "reason": plan.reasons[3]}]
    assert written["mean_token_s"] == pytest.approx(plan.prediction.price_s / 3)
    assert {item["name"] for item in written["policies"]} == set(POLICIES)
    assert written["best_rejected"] == found.best_rejected.name
    assert [lane["kind"] for lane in written["timeline"]["lanes"]] == ["draft", "air", "target"]
