"""The paper's schemes on drawn tasks: who is never worse, what repeats, what delay does."""

import dataclasses
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import sem, t

from bench.paper.delay import delay_curves, prices_s, stream_problem
from bench.paper.schemes import REDUCERS, joint_step
from bench.paper.sweeps import LATENCY, UPLOAD, Point, Runner, Variant, sweeps_of
from bench.paper.tables import crossings, estimate
from bench.paper.tasks import TaskSet, draw
from bench.paper.world import problem_at, whole_problem, world_of
from policies import baselines
from tests.bench.paper_tasks import BASE, smaller


def test_tasks_are_the_same_for_the_same_seed_and_follow_their_distributions() -> None:
    many = smaller(4000)
    tasks = draw(many, 5)
    few = draw(smaller(10), 5)
    for field in dataclasses.fields(TaskSet):
        assert np.array_equal(getattr(few, field.name), getattr(tasks, field.name)[:10])
    assert not np.array_equal(draw(many, 6).prompts, tasks.prompts)
    # Cut at max_tokens, so a little below the mean of the scenario.
    assert 0.93 * 338 < tasks.outputs.mean() < 338
    assert tasks.alphas.mean() == pytest.approx(0.64, abs=0.01)
    cell = replace(many.cell, shadowing_db=0.0, rayleigh=False, min_distance_m=100.0)
    still = draw(replace(many, cell=cell), 5)
    loss_db = 33.99 + 35.3 * math.log10(math.hypot(100.0, 8.5))
    assert 10 * np.log10(still.snr_hz) == pytest.approx(np.full(4000, 23 - loss_db + 174 - 5))


def random_variant(rng):
    tasks = {
        "payload_bytes": float(10 ** rng.uniform(0, 4.3)),
        "alpha_mean": float(rng.uniform(0.2, 0.9)),
        "alpha_std": float(rng.uniform(0.0, 0.3)),
        "output_mean": float(rng.uniform(4, 200)),
    }
    scenario = smaller(int(rng.integers(1, 9)), **tasks)
    return Variant(
        replace(
            scenario,
            cell=replace(scenario.cell, bandwidth_hz=float(10 ** rng.uniform(4.5, 8))),
            link=replace(scenario.link, rtt_s=float(10 ** rng.uniform(-4, -1))),
            run=replace(scenario.run, first_seed=int(rng.integers(1000)), seeds=5),
        ),
        draft_speed=float(10 ** rng.uniform(-1, 1)),
        target_overlap=float(rng.uniform(0, 1)),
    )


def test_joint_is_never_above_any_scheme_and_below_its_own_planner_at_times() -> None:
    rng = np.random.default_rng(8)
    runner, is_below = Runner(), 0
    for _ in range(6):
        result = runner.result(Point((), random_variant(rng)))
        assert {key[2] for key in result.values} == set(BASE.schemes.names)
        for (scope, metric, scheme), theirs in result.values.items():
            assert (result.values[scope, metric, "joint"] <= theirs).all(), (scope, scheme)
        joint, step = (result.values[LATENCY, "mean", name] for name in ("joint", "joint-step"))
        is_below += int((joint < step).sum())
    assert is_below > 0


def test_runs_repeat_and_only_schemes_with_a_fixed_gamma_follow_it() -> None:
    base = smaller(3)
    sweeps = {sweep.name: sweep for sweep in sweeps_of(base)}
    plain, _, guessing = sweeps["fixed_gamma"].points[:3]
    runner = Runner()
    first, second = runner.result(plain), runner.result(guessing)
    again = Runner().result(guessing)
    for key, values in second.values.items():
        assert np.array_equal(values, again.values[key])
        same = np.array_equal(values, first.values[key])
        assert same == (key[2] not in ("fixed-gamma", "static") or key[0] == UPLOAD), key
    # At gamma 0 a maximal batch is plain decoding, but for the draft node's reading of prompts.
    assert first.values[LATENCY, "mean", "fixed-gamma"] == pytest.approx(
        first.values[LATENCY, "mean", "ad"]
    )


def test_planners_cover_all_streams() -> None:
    scenario = smaller(9)
    world, tasks = world_of(scenario), draw(scenario, 1)
    left = np.array([0.4, 1.0, 2.5, 9.0, 30.0, 30.0, 30.0, 30.0, 30.0])
    problem = problem_at(world, whole_problem(world, tasks), np.arange(9), left, 3000)
    for planner in (joint_step, *baselines.SCHEMES.values()):
        plan = planner(problem)
        assert (plan.bounds[0], plan.bounds[-1], len(plan.gammas)) == (0, 9, 9)
        assert (plan.gammas <= [0, 0, 1, 8, 8, 8, 8, 8, 8]).all()


def test_the_best_gamma_grows_with_the_log_of_the_delay_until_guesses_stop_to_pay() -> None:
    scenario = replace(BASE, delay=replace(BASE.delay, alphas=(0.6, 0.8), num_points=21))
    for curve in delay_curves(scenario):
        assert (np.diff(curve.apart) >= 0).all()
        assert curve.slope == pytest.approx(1 / math.log(1 / curve.alpha), rel=0.1)
        assert (curve.one_box[curve.rtt_s > curve.critical_s] == 0).all()
        below = curve.rtt_s < curve.critical_s
        assert np.array_equal(curve.one_box[below], curve.apart[below])
        problem = stream_problem(scenario, curve.alpha)

        def gain_s(rtt_s, problem=problem):
            prices = prices_s(problem, range(60), rtt_s)
            return prices[0] - prices[1:].min()

        assert brentq(gain_s, 1e-3, 1.0) == pytest.approx(curve.critical_s, rel=1e-6)


def test_estimates_and_crossings() -> None:
    values = np.random.default_rng(2).normal(3.0, 2.0, 20)
    found = estimate(values)
    assert found.mean == pytest.approx(values.mean())
    assert found.half == pytest.approx(t.ppf(0.975, 19) * sem(values), rel=1e-5)
    assert crossings([1, 10, 100], [0.0, 0.2, 0.1], 0.1) == pytest.approx((math.sqrt(10),))
    assert crossings([1, 2], [0.0, 0.05], 0.1) == ()
    assert REDUCERS["makespan"](np.array([1.0, 5.0])) == 5.0
