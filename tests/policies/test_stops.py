"""Stop chances against what a guess does to the price, and by hand."""

from dataclasses import replace

import numpy as np
import pytest

from policies.cycle import CyclePlan, evaluate
from policies.joint import joint_plan
from policies.latency import CostTable, NodeCosts
from policies.plan import DraftView, Link, Observation, StreamView
from policies.problem import problem_of
from policies.stops import stop_chances
from tests.policies.instances import observation

# Streams, and seconds that each of their tokens takes beyond the mean one's.
LENGTHS = {1: 0.0, 2: 0.003, 3: -0.006}


def linear(first_s, each_s):
    costs = CostTable((1, 201), (first_s, first_s + 200 * each_s))
    return NodeCosts(costs, costs)


def one_stream(token_s, *, alpha=0.5, step_s=0.004, rtt_s=0.0, gamma=None):
    view = StreamView(1, alpha, 500, gamma, "a")
    draft = DraftView("a", linear(step_s, 0.0), Link(rtt_s=rtt_s))
    return Observation((view,), linear(0.05, token_s), (draft,))


@pytest.mark.parametrize(("gamma", "token_s"), [(1, 0.001), (1, 0.004), (2, 0.001), (3, 0.0005)])
def test_one_stream_by_hand(gamma, token_s):
    """The guess pays where its chance of a token is worth its seconds at the present rate."""
    problem = problem_of(one_stream(token_s, rtt_s=0.02))
    plan = CyclePlan((0, 1), np.array([gamma]))
    cost = evaluate(problem, plan)
    lap_s = 0.02 + gamma * 0.004 + 0.05 + gamma * token_s
    tokens_per_s = sum(0.5**i for i in range(gamma + 1)) / lap_s
    expected = round((0.004 + token_s) * tokens_per_s, 2)
    assert stop_chances(problem, plan, cost).tolist() == [pytest.approx(expected, abs=0.01)]


def test_a_guess_less_likely_than_that_raises_the_price_and_a_likelier_one_lowers_it():
    """The chance of the next guess is put right below and above, where the cycle is a lap."""
    for token_s in (0.0005, 0.002, 0.006):
        for gamma in (1, 2, 4):
            seen = one_stream(token_s, alpha=0.7, step_s=0.002)
            problem = problem_of(seen)
            plan = CyclePlan((0, 1), np.array([gamma]))
            cost = evaluate(problem, plan)
            (stop,) = stop_chances(problem, plan, cost)
            so_far = 0.7**gamma
            for factor, is_cheaper in ((0.7, False), (1.5, True)):
                chance = min(1.0, stop * factor / so_far)
                alphas = (*(0.7,) * gamma, chance)
                known = replace(seen.streams[0], alphas=alphas)
                other = problem_of(replace(seen, streams=(known,)))
                longer = evaluate(other, CyclePlan((0, 1), np.array([gamma + 1])))
                if so_far * chance < stop * factor * 0.999:
                    continue  # a chance cannot be above 1
                assert (longer.price_s < cost.price_s) is is_cheaper, (token_s, gamma, factor)


@pytest.mark.parametrize("gamma", [1, 2])
def test_a_guess_to_a_target_on_the_air_takes_its_seconds_there(gamma):
    seen = replace(one_stream(0.001), target_link=Link(1e5))
    problem = problem_of(seen)
    plan = CyclePlan((0, 1), np.array([gamma]))
    cost = evaluate(problem, plan)
    # Two messages of an entry; a token and its text; a guess there, and back with its text.
    way_s = (2 * 1224 + 2 * 80 + 64 + 96 * gamma) / 1e5
    lap_s = gamma * 0.004 + 0.05 + gamma * 0.001 + way_s
    assert cost.lap_s == pytest.approx([lap_s])
    tokens_per_s = sum(0.5**i for i in range(gamma + 1)) / lap_s
    expected = round((0.004 + 0.001 + 96 / 1e5) * tokens_per_s, 2)
    assert stop_chances(problem, plan, cost).tolist() == [pytest.approx(expected, abs=0.01)]


def test_a_guess_counts_where_the_target_s_medium_is_what_is_busy():
    """Two batches of a stream, for which nothing but that takes time: C = 2 way, F = C sum 1/E."""
    views = tuple(StreamView(k, 0.5, 500, None, "a") for k in (1, 2))
    draft = DraftView("a", linear(1e-6, 0.0))
    seen = Observation(views, linear(1e-6, 0.0), (draft,), target_link=Link(1e5))
    problem = problem_of(seen)
    plan = CyclePlan((0, 1, 2), np.array([1, 1]))
    cost = evaluate(problem, plan)
    way_bits = 2 * 1224 + 2 * 80 + 64 + 96
    assert cost.natural_s == pytest.approx(2 * way_bits / 1e5, rel=1e-3)
    expected = round(96 / way_bits * 1.5, 2)
    assert expected > 0
    assert stop_chances(problem, plan, cost).tolist() == [expected, expected]


def test_chances_are_whole_percent_and_only_of_streams_that_guess():
    guessing = 0
    for seed in range(200):
        problem = problem_of(observation(seed, 1 + seed % 12, stopping=seed % 2 == 1))
        random = np.random.default_rng(seed)
        n = problem.num_streams
        gammas = np.clip(random.integers(0, 9, n), problem.least, problem.most)
        plan = CyclePlan((0, n // 2, n) if n > 1 else (0, n), gammas)
        stops = stop_chances(problem, plan, evaluate(problem, plan))
        assert ((stops >= 0) & (stops <= 1)).all()
        assert (np.abs(stops * 100 - np.round(stops * 100)) < 1e-9).all()
        assert not stops[(gammas == 0) | (problem.least > 0)].any()
        guessing += np.count_nonzero(stops)
    assert guessing > 100


def test_a_guess_of_a_longer_text_must_be_surer():
    """Its tokens take more of the target's time than those of the mean stream."""
    views = [StreamView(k, 0.9, 500, draft="a", extra_s=extra_s) for k, extra_s in LENGTHS.items()]
    seen = Observation(tuple(views), linear(0.05, 0.004), (DraftView("a", linear(0.001, 0.0)),))
    problem = problem_of(seen)
    plan = CyclePlan((0, 3), np.array([1, 1, 1]))
    cost = evaluate(problem, plan)
    stops = dict(zip(problem.stream_ids, stop_chances(problem, plan, cost), strict=True))
    # What a guess adds to the lap: its own token, for the draft step is one of all of them.
    for stream_id, extra_s in LENGTHS.items():
        ratio = max(0.0, 0.004 + extra_s) / 0.004
        assert stops[stream_id] == pytest.approx(stops[1] * ratio, abs=0.015)


def test_a_number_of_guesses_that_a_client_asked_for_is_made_whole():
    plan = joint_plan(one_stream(0.004, gamma=3))
    assert plan.batches[0].gammas == (3,)
    assert plan.batches[0].stops == ()
    assert joint_plan(one_stream(0.001, alpha=0.9)).batches[0].stops[0] > 0


def test_the_dearer_a_guess_the_surer_it_must_be():
    stops = []
    for token_s in (0.0, 0.001, 0.005, 0.02):
        problem = problem_of(one_stream(token_s))
        plan = CyclePlan((0, 1), np.array([2]))
        stops.append(float(stop_chances(problem, plan, evaluate(problem, plan))[0]))
    assert stops == sorted(stops)
    assert 0 < stops[0] < stops[-1]


def test_guesses_that_are_alike_are_made_as_long_as_they_pay():
    """A stop is below the chance of what the plan's own reckoning lets a typical round make."""
    for alpha in (0.6, 0.8, 0.9, 0.95):
        for token_s in (0.0, 0.001, 0.004, 0.01):
            problem = problem_of(one_stream(token_s, alpha=alpha, rtt_s=0.02))
            plan = CyclePlan((0, 1), np.array([8]))
            cost = evaluate(problem, plan)
            (stop,) = stop_chances(problem, plan, cost)
            num_made = next((k for k in range(8) if alpha ** (k + 1) < stop - 0.005), 8)
            # What the next one is worth at what these earn, the last one at what those before do.
            price = (0.004 + token_s) / cost.cycle_s / float(problem.earned[0, 8])
            earned = [sum(alpha**j for j in range(k + 1)) for k in range(9)]
            if stop < 0.74 and num_made < 8:
                assert alpha ** (num_made + 1) < price * earned[num_made] ** 2 + 0.05
            if num_made:
                assert alpha**num_made > price * earned[num_made - 1] ** 2 - 0.05
            assert stop <= 0.75


def test_a_longer_lap_is_nothing_that_plain_streams_pay_for():
    """Plain streams go on in passes of their own, so that guesses may be no less sure."""
    alone = one_stream(0.0005, alpha=0.9, rtt_s=0.2)
    plain = tuple(StreamView(k, 0.1, 500) for k in range(2, 12))
    crowd = replace(alone, streams=(*alone.streams, *plain))
    stops = []
    for seen, gammas in ((alone, [4]), (crowd, [0] * 10 + [4])):
        problem = problem_of(seen)
        plan = CyclePlan((0, problem.num_streams), np.array(gammas))
        stops.append(float(stop_chances(problem, plan, evaluate(problem, plan))[-1]))
    # With ten times as much at stake it was near 1 when each second was charged to all.
    assert stops[1] <= stops[0] + 0.2


def test_a_step_that_others_take_anyway_makes_no_lap_longer():
    """Beside streams that never stop, only what a guess adds to the pass counts."""

    def stop_of_first(num_others, caps):
        views = [StreamView(k, 0.6, 500, draft="a") for k in range(1 + num_others)]
        seen = Observation(tuple(views), linear(0.05, 1e-6), (DraftView("a", linear(0.02, 0.0)),))
        problem = problem_of(seen)
        plan = CyclePlan((0, 1 + num_others), np.array(caps))
        return stop_chances(problem, plan, evaluate(problem, plan))[0]

    alone = stop_of_first(0, [4])
    assert alone > 0.1
    assert stop_of_first(1, [4, 1]) > 0.5 * alone
    assert stop_of_first(1, [4, 4]) < 0.05 * alone


def test_the_chance_that_nobody_else_goes_on_is_of_all_draft_nodes():
    """Two streams on a node of their own each are in the same lap as two on one."""
    stops = []
    for nodes in ("aa", "ab"):
        views = tuple(StreamView(k, 0.6, 500, draft=n, kept=0.7) for k, n in enumerate(nodes))
        drafts = tuple(DraftView(n, linear(0.02, 0.0)) for n in sorted(set(nodes)))
        problem = problem_of(Observation(views, linear(0.05, 1e-4), drafts))
        plan = CyclePlan((0, 2), np.array([4, 4]))
        cost = evaluate(problem, plan)
        # What the step is beside a cycle, which is predicted to be longer on one node.
        stops.append(stop_chances(problem, plan, cost)[0] * cost.cycle_s)
    assert stops[0] == pytest.approx(stops[1], rel=0.05)
