"""Texts that fit and say what is so."""

import json
import re
from dataclasses import asdict

import pytest
from hypothesis import given, settings

from policies.baselines import POLICIES
from policies.explain import explain, text_of
from policies.plan import MAX_AUTO_GAMMA, DraftView, Link, Observation, StreamView
from tests.policies.explain.cases import (
    LINK,
    NAMES,
    NODE,
    flat,
    free,
    line,
    lone_price_s,
    observations,
    stream,
)
from tests.policies.slow_cycle import SlowCycle


def test_a_text_says_what_was_planned_and_why():
    streams = (
        StreamView(1, 0.9, 500, draft="a"),
        StreamView(2, 0.9, 500, draft="a"),
        StreamView(3, 0.9, 1, draft="a", weight=2.0),
        stream(4, 0.7, 0),
    )
    observation = Observation(streams, line(0.040, 0.002), (NODE,))
    found = explain(observation, "max-batch")
    (batch,) = found.batches
    text = text_of(found, observation, "a test")
    assert text.startswith("a test: 4 streams, 1 draft node; policy max-batch\n")
    assert "streams 1-2: acceptance 0.90, 500 tokens left, draft a\n" in text
    assert "stream 3: acceptance 0.90, 1 token left, draft a, weight 2\n" in text
    assert (
        "stream 4: acceptance 0.70, 500 tokens left, draft a, gamma 0 set by the client\n" in text
    )
    row = next(line.split() for line in text.splitlines() if line.startswith("1 "))
    assert row[:3] == ["1", "1-2", str(batch.gammas[0])]
    in_ms = [1e3 * s for s in (batch.draft_s, batch.air_s, batch.verify_s, batch.round_s)]
    assert [float(cell) for cell in row[3:7]] == pytest.approx(in_ms, abs=0.051)
    assert row[7] == str(batch.num_tokens)
    plain = next(line.split() for line in text.splitlines() if line.startswith("plain "))
    # Two tokens in a pass of the plain streams.
    assert plain == ["plain", "3-4", "0", "-", "-", "42.0", "42.0", "2", "2.0"]
    assert f"predicted: a cycle of {1e3 * found.cycle_s:.1f} ms" in text
    mean_ms = 1e3 * found.price_s / 5
    assert re.search(rf"price {mean_ms:.1f} ms a token\s+\(mean", text)
    assert re.search(r"^max-batch .*<- chosen$", text, re.M)
    assert re.search(rf"^{found.best_rejected} .*best rejected$", text, re.M)
    assert "stream 3 is plain: draft off: one token is left" in text
    assert "stream 4 is plain: draft off: the request sets gamma to 0" in text
    assert re.search(r"^draft a .*1", text, re.M)
    assert re.search(r"^target .*p", text, re.M)
    worse = found.changes[-1].relative
    assert f"no guesses {worse:.1%} dearer" in " ".join(text.split())


def test_many_batches_are_cut_short():
    streams = tuple(stream(n) for n in range(1, 41))
    observation = Observation(streams, flat(0.04), (NODE,))
    found = explain(observation, "single-stream")
    assert "\nand 24 more batches\n" in text_of(found, observation, "x")
    # Too many to look at them one by one.
    assert {change.batch for change in found.changes} == {0}


@settings(max_examples=25)
@given(observations(), NAMES)
def test_every_text_fits_and_every_object_is_json(observation, policy):
    found = explain(observation, policy)
    text = text_of(found, observation, "some name of a scenario")
    assert text.isascii()
    assert [row for row in text.splitlines() if len(row) > 80 or row != row.rstrip()] == []
    read = json.loads(json.dumps(asdict(found), allow_nan=False))
    plan = POLICIES[policy](observation)
    batches = [(list(batch.stream_ids), list(batch.gammas)) for batch in plan.batches]
    assert [(item["streams"], item["gammas"]) for item in read["batches"]] == batches
    made = plan.prediction
    assert [item["round_s"] for item in read["batches"]] == [each.round_s for each in made.batches]
    assert (found.price_s, found.cycle_s, found.bound) == (made.price_s, made.cycle_s, made.bound)


# -- prices of changed plans, and what other policies would do -------------------------------------


def test_changes_of_a_lone_stream():
    observation = Observation((free(1, 0.9),), line(0.040, 0.002), (NODE,))
    best = min(range(MAX_AUTO_GAMMA + 1), key=lambda gamma: lone_price_s(gamma, 0.9))
    assert 1 < best < MAX_AUTO_GAMMA
    found = explain(observation, "joint")
    assert found.batches[0].gammas == (best,)
    expected = {
        "one guess fewer": lone_price_s(best - 1, 0.9),
        "one guess more": lone_price_s(best + 1, 0.9),
        "no guesses": 0.040,
    }
    assert {c.what: c.price_s for c in found.changes} == pytest.approx(expected)
    assert {c.batch for c in found.changes} == {0}
    assert found.changes[0].relative == pytest.approx(
        lone_price_s(best - 1, 0.9) / lone_price_s(best, 0.9) - 1
    )


def test_changes_where_nobody_guesses():
    observation = Observation((free(1, 0.2),), line(0.040, 0.002), (NODE,))
    (change,) = explain(observation, "joint").changes
    price_s, gamma = min((lone_price_s(g, 0.2), g) for g in range(1, MAX_AUTO_GAMMA + 1))
    assert gamma == 1
    assert change.what == "1 guess each in 1 batch"
    assert change.price_s == pytest.approx(price_s)


def test_changes_of_two_batches():
    observation = Observation((free(1, 0.7), free(2, 0.9)), flat(0.040), (NODE,))
    found = explain(observation, "alternating")
    (low,), (high,) = (batch.gammas for batch in found.batches)

    def price_s(*batches):
        return SlowCycle(observation).price(batches).price_s

    assert found.price_s == pytest.approx(price_s([(1, low)], [(2, high)]))
    prices = {(c.batch, c.what): c.price_s for c in found.changes}
    assert prices[0, "one guess more"] == pytest.approx(price_s([(1, low + 1)], [(2, high + 1)]))
    assert prices[1, "one guess fewer"] == pytest.approx(price_s([(1, low - 1)], [(2, high)]))
    assert prices[2, "one guess more"] == pytest.approx(price_s([(1, low)], [(2, high + 1)]))
    assert prices[0, "1 batch"] == pytest.approx(price_s([(1, low), (2, high)]))
    assert prices[0, "no guesses"] == pytest.approx(0.080)
    assert (0, "3 batches") not in prices


def test_what_clients_asked_for_is_not_changed():
    streams = (stream(1, gamma=3), stream(2, gamma=0), stream(3, draft=None, gamma=None))
    found = explain(Observation(streams, flat(0.040), (NODE,)), "max-batch")
    assert found.changes == ()
    assert (found.acceptance, found.turning_acceptance) == (None, None)
    assert [group.streams for group in found.plain] == [(2,), (3,)]
    one_left = StreamView(1, 0.9, 1, draft="a")
    assert explain(Observation((one_left,), flat(0.040), (NODE,)), "joint").changes == ()


def test_guesses_that_were_asked_for_stay():
    streams = (free(1, 0.9), free(2, 0.9), stream(3, 0.5, 3))
    observation = Observation(streams, flat(0.040), (NODE,))
    found = explain(observation, "max-batch")
    (change,) = [c for c in found.changes if c.what.startswith("no guesses")]
    assert change.what == "no guesses except those set by clients"
    price = SlowCycle(observation).price([[(1, 0), (2, 0), (3, 3)]])
    assert change.price_s == pytest.approx(price.price_s)


def test_plain_streams_could_guess_too():
    streams = (free(1, 0.05), free(2, 0.95), free(3, 0.95))
    slow = DraftView("a", line(0.004, 0.004), LINK)
    found = explain(Observation(streams, line(0.040, 0.010), (slow,)), "joint")
    assert [group.streams for group in found.plain] == [(1,)]
    (change,) = [c for c in found.changes if c.what == "no plain streams"]
    assert change.relative > 0


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
    assert found.batches == ()
    assert found.turning_acceptance is None


@pytest.mark.slow
@settings(max_examples=25)
@given(observations(max_streams=6), NAMES)
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
    observation = Observation((free(1, 0.9),), line(0.040, 0.002), (NODE,))
    same = {item.name: item.same_plan for item in explain(observation, "joint").policies}
    assert same["max-batch"]
    assert same["alternating"]
    assert not same["ad"]
    # One batch over a medium of its own: neither turns nor shares, nothing to overlap with.
    assert same["uniform-air"]
    assert same["no-overlap"]


def test_expected_tokens_of_each_batch():
    observation = Observation((stream(1, 0.5), stream(2, 0.8, 3)), flat(0.04), (NODE,))
    (batch,) = explain(observation, "max-batch").batches
    assert batch.expected_tokens == pytest.approx(1.75 + 1 + 0.8 + 0.64 + 0.512)
