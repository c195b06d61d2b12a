"""What a plan's explanation says, on small observations worked out by hand and on random ones."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airdraft.policies.baselines import POLICIES
from airdraft.policies.explain import explain, text_of
from airdraft.policies.latency import CostTable, NodeCosts
from airdraft.policies.plan import DraftView, Link, Observation, StreamView
from tests.policies.instances import observation


def line(first_s, slope_s=0.0):
    """A node on which every further token of a pass takes slope_s."""
    table = CostTable((1, 1001), (first_s, first_s + 1000 * slope_s))
    return NodeCosts(table, table)


def stream(number, alpha=0.8, gamma=None, left=500, **more):
    return StreamView(number, alpha, left, fixed_gamma=gamma, draft="a", **more)


# A message takes 1 ms of the medium whatever its size, 10 ms there and back.
NODE = DraftView("a", line(0.010), Link(rtt_s=0.010, frame_s=0.001))


def numbered(seed, num_streams):
    """A random observation whose streams are numbered from 1."""
    seen = observation(seed, num_streams)
    views = tuple(replace(view, stream_id=k) for k, view in enumerate(seen.streams, 1))
    return replace(seen, streams=views)


OBSERVATIONS = st.builds(numbered, st.integers(0, 10**6), st.integers(1, 8))
NAMES = st.sampled_from(list(POLICIES))


def test_a_table_says_what_was_planned_and_why():
    views = (stream(1, 0.9), stream(2, 0.9), stream(3, 0.9, left=1, weight=2.0), stream(4, 0.7, 0))
    found = explain(Observation(views, line(0.040, 0.002), (NODE,)), "max-batch")
    (batch,) = found.batches
    head, table = text_of(found, "a test").split("\n\n", 1)
    mean_ms = 1e3 * found.price_s / 5
    assert " ".join(head.split()) == (
        f"a test, policy max-batch: {mean_ms:.1f} ms a token, {found.tokens_per_s:.1f} tokens/s; "
        f"a cycle of {1e3 * found.cycle_s:.1f} ms, bound by {found.bound}"
    )
    rows = [line.split() for line in table.splitlines()]
    row = next(row for row in rows if row[:1] == ["1-2"])
    assert row[1] == str(batch.gammas[0])
    in_ms = [1e3 * s for s in (batch.draft_s, batch.air_s, batch.verify_s, batch.round_s)]
    assert [float(cell) for cell in row[2:6]] == pytest.approx(in_ms, abs=0.051)
    # Four plain streams would take 46 ms for a token each.
    each_ms = 1e3 * found.cycle_s / (batch.expected_tokens / 2)
    assert batch.reason == f"{each_ms:.1f} ms a token, 46.0 ms without guesses"
    # Two tokens in a pass of the plain streams.
    plain = [row for row in rows if row[:1] in (["3"], ["4"])]
    assert [row[1:6] for row in plain] == [["0", "-", "-", "42.0", "42.0"]] * 2
    reasons = ["one token is left", "the request sets gamma to 0"]
    assert [group.reason for group in found.plain] == [f"draft off: {each}" for each in reasons]
    (other,) = [item for item in found.policies if item.name == found.best_rejected]
    assert f"\nbest other plan: {other.name}, {1e3 * other.mean_token_s:.1f} ms a token, " in table


def test_a_batch_is_explained_by_the_gammas_that_clients_set():
    """Else a plan that is slower than plain decoding would seem to be wrong."""
    views = (stream(1, 0.1, 3), stream(2, 0.9), stream(3, 0.1, 3))
    (batch,) = explain(Observation(views, line(0.040), (NODE,)), "max-batch").batches
    assert batch.reason.endswith("; clients set the gamma of 1,3")


@settings(max_examples=25)
@given(OBSERVATIONS, NAMES)
def test_every_text_fits_and_every_object_is_json(observation, policy):
    found = explain(observation, policy)
    text = text_of(found, "some name of a scenario")
    assert text.isascii()
    assert [row for row in text.splitlines() if len(row) > 80 or row != row.rstrip()] == []
    read = json.loads(json.dumps(asdict(found), allow_nan=False))
    plan = POLICIES[policy](observation)
    batches = [(list(batch.stream_ids), list(batch.gammas)) for batch in plan.batches]
    assert [(item["streams"], item["gammas"]) for item in read["batches"]] == batches
    made = plan.prediction
    assert [item["round_s"] for item in read["batches"]] == [each.round_s for each in made.batches]
    assert (found.price_s, found.cycle_s, found.bound) == (made.price_s, made.cycle_s, made.bound)


def test_many_streams_and_gammas_continue_below():
    views = tuple(stream(2 * n, 0.8, 1 + n % 2) for n in range(1, 13))
    text = text_of(explain(Observation(views, line(0.04), (NODE,)), "max-batch"), "x")
    cells = [row[:17].split() for row in text.splitlines() if row[:1].isdigit()]
    assert cells == [["4,8,12,", "1"], ["16,20,24"], ["2,6,10,", "2"], ["14,18,22"]]


@pytest.mark.slow
@settings(max_examples=25)
@given(OBSERVATIONS, NAMES)
def test_every_policy_is_compared_and_the_best_rejected_is_the_cheapest(observation, policy):
    found = explain(observation, policy)
    plans = {name: make(observation) for name, make in POLICIES.items()}
    made = {name: plan.prediction for name, plan in plans.items()}
    assert [item.name for item in found.policies] == list(POLICIES)
    for item in found.policies:
        assert item.price_s == made[item.name].price_s
        assert item.tokens_per_s == made[item.name].tokens_per_s
        assert item.relative == pytest.approx(item.price_s / made[policy].price_s - 1)
    others = {item.name: item.price_s for item in found.policies if not item.same_plan}
    assert policy not in others
    assert found.best_rejected == min(others, key=others.get, default=None)


def test_policies_with_the_same_plan_are_no_alternatives():
    seen = Observation((stream(1, 0.9),), line(0.040, 0.002), (NODE,))
    same = {item.name: item.same_plan for item in explain(seen, "joint").policies}
    assert same["max-batch"]
    assert same["alternating"]
    assert not same["ad"]


def test_expected_tokens_of_each_batch():
    seen = Observation((stream(1, 0.5, 2), stream(2, 0.8, 3)), line(0.04), (NODE,))
    (batch,) = explain(seen, "max-batch").batches
    assert batch.expected_tokens == pytest.approx(1.75 + 1 + 0.8 + 0.64 + 0.512)
