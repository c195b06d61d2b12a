"""The paper's runs by hand, and what passes, rounds and the air cost in them."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.optimize import brentq

from bench.paper.model import pace_of, run_static, run_waves
from bench.paper.ofdma import ofdma_rate_bps
from bench.paper.tasks import TaskSet, draw
from bench.paper.uplink import in_groups_s, together_s, uniform_s
from bench.paper.world import World, problem_at, whole_problem, world_of
from policies import baselines
from policies.analytic import pass_seconds
from policies.cycle import CyclePlan
from policies.describe import describe
from policies.plan import Link, Observation, StreamView
from tests.bench.paper_tasks import BASE, smaller


@dataclass(frozen=True)
class Flat:
    """A node on which every pass takes the same time, and every prompt too."""

    pass_s: float
    prompt_s: float

    def seconds_upto(self, num_tokens, num_sequences, cells):
        seconds = np.full(num_tokens + 1, self.pass_s)
        seconds[0] = 0.0
        return seconds

    def prefill_s(self, prompts):
        return self.prompt_s


@pytest.fixture
def flat(monkeypatch):
    """A second a pass of the target, a tenth a draft step, two seconds for prompts, no air."""

    def world(cells=10**6):
        return World(Flat(1.0, 2.0), Flat(0.1, 0.5), cells, cells, Link(), 16, 0.125)

    costs = world_of(BASE).draft
    # whole_problem only asks for the shape of arrays, of whatever model.
    monkeypatch.setattr(Flat, "shape", costs.shape, raising=False)
    monkeypatch.setattr(Flat, "device", costs.device, raising=False)
    return world


def tasks_of(outputs, alphas=0.5, prompts=10):
    n = len(outputs)
    filled = [np.broadcast_to(np.array(value), n) for value in (prompts, alphas)]
    ones = np.ones(n)
    return TaskSet(filled[0], np.array(outputs), filled[1], ones, ones, ones)


def fixed(gamma):
    def plan(problem):
        return CyclePlan((0, problem.num_streams), baselines.uniform_gammas(problem, gamma))

    return plan


def test_plain_decoding_by_hand(flat) -> None:
    # Prompts until 2 s give a token each, then one a second; all fits, nothing waits.
    ended_s = run_waves(flat(), tasks_of([5, 2, 1]), np.zeros(3), baselines.autoregressive)
    assert ended_s == pytest.approx([6.0, 3.0, 2.0])


def test_rounds_with_guesses_by_hand(flat) -> None:
    # All accepted: 5 tokens a round of 4 draft steps and a pass, so 10 more tokens in 2 rounds.
    sure = tasks_of([11, 11], alphas=1.0)
    assert run_waves(flat(), sure, np.zeros(2), fixed(4))[0] == pytest.approx(2.0 + 2 * 1.4)
    # Without overlap one batch takes as long; two of them take turns.
    halves = CyclePlan((0, 1, 2), np.array([4, 4]))
    apart = run_waves(flat(), sure, np.zeros(2), lambda _: halves, overlap=False)
    assert apart[0] == pytest.approx(2.0 + 2 * 2.8)
    # Half accepted: 1.9375 tokens a round, 20 more tokens in 11 rounds.
    ended_s = run_waves(flat(), tasks_of([21]), np.zeros(1), fixed(4))
    assert ended_s == pytest.approx([2.0 + 11 * 1.4])


def test_a_late_prompt_stops_decoding_while_it_is_read(flat) -> None:
    # At 3.5 s the first task has 8.5 of 10 left; at 5.5 both go on, the second ends at 7.5.
    ended_s = run_waves(flat(), tasks_of([11, 3]), np.array([0.0, 3.5]), baselines.autoregressive)
    assert ended_s == pytest.approx([7.5 + math.ceil(8.5 - 2.0), 7.5])


def test_prompts_that_came_during_a_prefill_do_not_wait_for_the_end_of_a_task(flat) -> None:
    ended_s = run_waves(flat(), tasks_of([100, 3]), np.array([0.0, 0.1]), baselines.autoregressive)
    assert ended_s == pytest.approx([4.0 + 99.0, 6.0])


def test_a_full_cache_makes_tasks_wait(flat) -> None:
    # 10 + 5 and 10 + 3 cells do not fit 27 together.
    ended_s = run_waves(flat(27), tasks_of([5, 3]), np.zeros(2), baselines.autoregressive)
    assert ended_s == pytest.approx([6.0, 6.0 + 2.0 + 2.0])
    ended_s = run_waves(flat(28), tasks_of([5, 3]), np.zeros(2), baselines.autoregressive)
    assert ended_s == pytest.approx([6.0, 4.0])


def test_static_batches_by_hand(flat) -> None:
    # 40 cells: two prompts of 10 with 5 + 9, not the third's too, which waits for the longest.
    tasks = tasks_of([5, 9, 3])
    ended_s = run_static(flat(40), tasks, np.array([0.0, 1.0, 0.0]), 0)
    # In the order of arrival: the first and the third fit, then the second.
    assert ended_s == pytest.approx([6.0, 6.0 + 2.0 + 8.0, 4.0])
    ended_s = run_static(flat(40), tasks, np.zeros(3), 0)
    assert ended_s == pytest.approx([6.0, 10.0, 10.0 + 2.0 + 2.0])
    # Prompts padded to the longest: 30 + 30 cells and the outputs do not fit 70.
    padded = tasks_of([5, 9], prompts=[30, 1])
    assert run_static(flat(70), padded, np.zeros(2), 0) == pytest.approx([6.0, 16.0])
    assert run_static(flat(74), padded, np.zeros(2), 0) == pytest.approx([6.0, 10.0])


def test_the_pace_adds_up_to_the_tokens_that_the_live_plan_predicts() -> None:
    rng = np.random.default_rng(3)
    mixed = 0
    for seed in range(30):
        scenario = smaller(int(rng.integers(2, 12)), alpha_mean=0.5, alpha_std=0.3)
        world, tasks = world_of(scenario), draw(scenario, seed)
        problem = problem_at(
            world,
            whole_problem(world, tasks),
            np.arange(tasks.num),
            np.full(tasks.num, 50.0),
            int(rng.integers(100, 20_000)),
        )
        gammas = rng.integers(0, 4, tasks.num)
        plan = CyclePlan((0, tasks.num // 2, tasks.num), gammas)
        views = tuple(StreamView(k, 0.5, 50, draft="draft") for k in range(tasks.num))
        prediction = describe(Observation(views), problem, plan, "x").prediction
        assert prediction is not None
        pace = pace_of(problem, plan)
        assert (pace.tokens / pace.period_s).sum() == pytest.approx(prediction.tokens_per_s)
        mixed += 0 < (gammas == 0).sum() < tasks.num
    assert mixed > 5


@pytest.mark.parametrize("overlap", [0.0, 1.0])
def test_passes_cost_what_the_analytic_model_says(overlap) -> None:
    node = world_of(BASE, target_overlap=overlap).target
    for num in (1, 7, 90):
        seconds = node.seconds_upto(9 * num, num, 300 * num)
        for each in (1, 2, 8):
            exact = pass_seconds(
                node.shape, node.device, np.full(num, each), np.full(num, 300), each * num
            )
            # The new tokens of a stream attend to each other too, which is left out.
            assert seconds[each * num] == pytest.approx(exact, rel=1e-12 if each == 1 else 1e-3)


def test_the_band_is_shared_as_it_should_be() -> None:
    rng = np.random.default_rng(1)
    bits, snr_hz, width = rng.uniform(1e3, 1e5, 7), 10 ** rng.uniform(5, 9, 7), 1e6

    def needed_hz(k, seconds):
        low, high = 1e-3, 1e12
        return brentq(
            lambda band: float(ofdma_rate_bps(band, snr_hz[k])) * seconds - bits[k], low, high
        )

    common_s = together_s(bits, snr_hz, width)
    assert len(set(common_s.tolist())) == 1
    assert sum(needed_hz(k, common_s[0]) for k in range(7)) == pytest.approx(width, rel=1e-6)
    share = width / 7
    each_s = [bits[k] / (share * math.log2(1 + snr_hz[k] / share)) for k in range(7)]
    assert uniform_s(bits, snr_hz, width) == pytest.approx(each_s)
    order = np.argsort(bits)
    grouped_s = in_groups_s(bits, snr_hz, width, 3)
    first, second = order[:3], order[3:5]
    alone_s = [together_s(bits[group], snr_hz[group], width)[0] for group in (first, second)]
    assert grouped_s[first] == pytest.approx(alone_s[0])
    assert grouped_s[second] == pytest.approx(sum(alone_s))
