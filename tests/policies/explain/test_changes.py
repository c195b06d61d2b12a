"""Prices of changed plans by hand, and what other policies would do."""

import pytest
from hypothesis import given, settings

from policies.baselines import POLICIES
from policies.explain import explain
from policies.plan import DraftView, Link, Observation, StreamView
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


def test_changes_of_a_lone_stream():
    observation = Observation((free(1, 0.9),), line(0.040, 0.002), (NODE,))
    best = min(range(NODE.max_gamma + 1), key=lambda gamma: lone_price_s(gamma, 0.9))
    assert 1 < best < NODE.max_gamma
    found = explain(observation, "joint")
    assert found.plan.batches[0].gammas == (best,)
    expected = {
        "one guess fewer": lone_price_s(best - 1, 0.9),
        "one guess more": lone_price_s(best + 1, 0.9),
        "no guesses": 0.040,
    }
    assert {c.what: c.price_s for c in found.changes} == pytest.approx(expected)
    assert {c.batch for c in found.changes} == {0}
    relative = found.relative(found.changes[0].price_s)
    assert relative == pytest.approx(lone_price_s(best - 1, 0.9) / lone_price_s(best, 0.9) - 1)


def test_changes_where_nobody_guesses():
    observation = Observation((free(1, 0.2),), line(0.040, 0.002), (NODE,))
    (change,) = explain(observation, "joint").changes
    price_s, gamma = min((lone_price_s(g, 0.2), g) for g in range(1, NODE.max_gamma + 1))
    assert gamma == 1
    assert change.what == "1 guess each in 1 batch"
    assert change.price_s == pytest.approx(price_s)


def test_changes_of_two_batches():
    observation = Observation((free(1, 0.7), free(2, 0.9)), flat(0.040), (NODE,))
    found = explain(observation, "alternating")
    (low,), (high,) = (batch.gammas for batch in found.plan.batches)

    def price_s(*batches):
        return SlowCycle(observation).price(batches).price_s

    assert found.prediction.price_s == pytest.approx(price_s([(1, low)], [(2, high)]))
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
    assert [ids for _, ids in found.plain_groups()] == [(2,), (3,)]
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


@pytest.mark.slow
@settings(max_examples=25)
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
