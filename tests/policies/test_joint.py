"""What a joint plan tells: its streams, numbers, turns and reasons, all worked out once more."""

import re
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from airdraft.policies.cycle import CyclePlan
from airdraft.policies.describe import describe
from airdraft.policies.explain import plain_groups
from airdraft.policies.joint import joint_plan
from airdraft.policies.latency import CostTable, NodeCosts
from airdraft.policies.plan import DraftView, Link, Observation, StreamView
from airdraft.policies.problem import problem_of
from tests.policies.instances import batches_of, observation, random_plan
from tests.policies.slow_cycle import SlowCycle

REASON = re.compile(
    r"draft off: (1 guess makes|\d+ guesses make) a round of (\d+) ms, which gives (\d+\.\d\d) "
    r"tokens at acceptance (\d\.\d\d), and a plain step takes (\d+) ms"
    r"(; the guesses would slow .* down)?"
)


def some_plan(seen, seed):
    """Any cycle at all, described."""
    problem = problem_of(seen)
    return describe(problem, random_plan(Random(seed), problem), "any")


def plans(count):
    """Observations with the joint plan of each and with any other."""
    for seed in range(count):
        seen = observation(seed, 1 + seed % 9)
        yield seen, joint_plan(seen)
        yield seen, some_plan(seen, seed)


def test_the_prediction_is_that_of_the_definition():
    for seen, plan in plans(80):
        price = SlowCycle(seen).price(batches_of(plan))
        made = plan.prediction
        assert made.price_s == pytest.approx(price.price_s, rel=1e-9)
        assert made.cycle_s == pytest.approx(price.cycle_s, rel=1e-6)
        assert made.tokens_per_s == pytest.approx(price.tokens_per_s, rel=1e-6)
        assert len(made.batches) == len(plan.batches)
        for times, batch in zip(made.batches, price.batches, strict=False):
            draft_s, air_s, _, verify_s, round_s, num_tokens = batch
            assert times.draft_s == pytest.approx(max(draft_s.values()))
            assert times.air_s == pytest.approx(sum(air_s.values()))
            assert times.verify_s == pytest.approx(verify_s)
            assert times.round_s == pytest.approx(round_s)
            assert times.num_tokens == num_tokens


def test_the_bound_is_the_longest_stage():
    seen_bounds = set()
    for seen, plan in plans(150):
        slow, made = SlowCycle(seen), plan.prediction
        price = slow.price(batches_of(plan))
        if not plan.batches:
            assert made.bound == "target"
            continue
        if price.cycle_s > 1.01 * price.natural_s:
            assert made.bound == "plain streams"
            continue
        terms = {"target": sum(batch[3] for batch in price.batches)}
        for m, batch in enumerate(price.batches):
            terms[f"round of batch {m + 1}"] = batch[4]
            for name, seconds in batch[0].items():
                key = f"draft node {name}"
                terms[key] = terms.get(key, 0.0) + seconds
            for name, seconds in batch[1].items():
                key = name.replace("own of", "link of")
                terms[key] = terms.get(key, 0.0) + seconds
        if made.bound.startswith("round") and price.natural_s > max(terms.values()) * (1 + 1e-9):
            # With what it waits for others' messages a round may be the longest of all.
            assert terms[made.bound] == pytest.approx(max(batch[4] for batch in price.batches))
        elif made.bound != "plain streams":
            assert terms[made.bound] == pytest.approx(max(terms.values())), terms
        seen_bounds.add(made.bound.split()[0])
    assert {"target", "draft", "round"} <= seen_bounds


def test_a_bound_counts_batches_as_the_plan_does():
    """A batch without guesses stands before the slow one in the cut, and not in the plan."""
    costs = NodeCosts(CostTable((1,), (0.01,)), CostTable((1,), (0.01,)))
    views = (StreamView(1, 0.1, 99), StreamView(2, 0.9, 99, draft="a"))
    seen = Observation(views, costs, (DraftView("a", costs, Link(rtt_s=1.0)),))
    plan = describe(problem_of(seen), CyclePlan((0, 1, 2), np.array([0, 4])), "any")
    assert len(plan.batches) == 1
    assert plan.prediction.bound in ("round of batch 1", "plain streams")


def test_reasons_are_there_for_every_plain_stream_and_true():
    """With a stream's own caps and acceptance, and the best number of guesses it could make."""
    numbers = 0
    for seen, plan in plans(150):
        slow, problem = SlowCycle(seen), problem_of(seen)
        most = dict(zip(problem.stream_ids, problem.most.tolist(), strict=True))
        reasons = [(k, g.reason) for g in plain_groups(seen, problem, plan) for k in g.streams]
        assert sorted(plan.plain) == sorted(stream_id for stream_id, _ in reasons)
        for stream_id, text in reasons:
            view = slow.streams[stream_id]
            if view.fixed_gamma == 0:
                assert text == "draft off: the request sets gamma to 0"
            elif view.draft not in slow.drafts:
                assert text == "draft off: no draft node holds the stream"
            elif view.tokens_left <= 1:
                assert text == "draft off: one token is left"
            else:
                numbers += 1
                check_numbers(slow, view, most[stream_id], len(plan.plain), text)
    assert numbers > 50


def check_numbers(slow, view, most, num_plain, text):
    found = REASON.fullmatch(text)
    assert found, text
    rounds = {}
    for gamma in range(1, most + 1):
        _, _, head_s, num_tokens = slow.stages([(view.stream_id, gamma)])
        round_s = head_s + slow.verify_s(num_plain - 1 + num_tokens)
        rounds[gamma] = (round_s, slow.earned(view.stream_id, gamma))
    gamma = int(found.group(1).split()[0])
    round_ms, tokens, alpha, step_ms = map(float, found.groups()[1:5])
    assert (gamma == 1) == found.group(1).endswith("makes")
    assert gamma in rounds, text
    round_s, earned = rounds[gamma]
    best = min(seconds / got for seconds, got in rounds.values())
    assert round_s / earned == pytest.approx(best, rel=1e-9)
    plain_s = slow.verify_s(num_plain)
    assert round_ms == pytest.approx(round_s * 1e3, abs=0.51)
    assert tokens == pytest.approx(earned, abs=0.00501)
    assert alpha == pytest.approx(view.alpha, abs=0.00501)
    assert step_ms == pytest.approx(plain_s * 1e3, abs=0.51)
    if abs(best / plain_s - 1) > 1e-9:
        assert bool(found.group(6)) == (best < plain_s)


def test_the_order_of_streams_in_an_observation_changes_nothing():
    for seed in range(60):
        seen = observation(seed, 1 + seed % 14)
        views = list(seen.streams)
        Random(seed).shuffle(views)
        one, two, three = (
            joint_plan(replace(seen, streams=tuple(streams)))
            for streams in (seen.streams, views, seen.streams)
        )
        assert one == two == three
