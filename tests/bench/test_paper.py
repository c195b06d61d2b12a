"""The paper's evaluation: tiny runs by hand, the rollout, the scenario file, the command."""

import csv
import dataclasses
import math
import tomllib
from dataclasses import dataclass, replace

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.optimize import brentq
from scipy.stats import sem, t

from bench.paper.command import paper_command
from bench.paper.delay import delay_curves, prices_s, stream_problem
from bench.paper.model import pace_of, run_static, run_waves
from bench.paper.plots import plot_delay, plot_payload, plot_sweep
from bench.paper.rules import ScenarioError
from bench.paper.scenario import PAPER, load
from bench.paper.schemes import REDUCERS, joint_step, one_shot
from bench.paper.sweeps import LATENCY, UPLOAD, Point, Runner, Variant, sweeps_of
from bench.paper.tables import crossings, estimate
from bench.paper.tasks import TaskSet, draw
from bench.paper.uplink import in_groups_s, together_s, uniform_s
from bench.paper.world import World, problem_at, whole_problem, world_of
from policies import baselines
from policies.analytic import pass_seconds
from policies.cycle import CyclePlan
from policies.joint import describe
from policies.ofdma import ofdma_rate_bps
from policies.plan import Link, Observation, StreamView

BASE = load(PAPER)


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


def smaller(num, **changes):
    return replace(BASE, tasks=replace(BASE.tasks, num=num, **changes))


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
    for planner in (joint_step, one_shot, *baselines.SCHEMES.values()):
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


BAD = {
    "a number as text": ("rtt_s = 0.005", 'rtt_s = "5 ms"', ("link.rtt_s", "5 ms", "a number")),
    "out of range": ("fixed_gamma = 4", "fixed_gamma = 9", ("schemes.fixed_gamma", "9", "0 to 8")),
    "not whole": ("num = 100", "num = 10.5", ("tasks.num", "10.5", "whole number")),
    "a flag": ("rayleigh = true", "rayleigh = 1", ("cell.rayleigh", "1", "true or false")),
    "infinite": ("power_dbm = 23", "power_dbm = inf", ("cell.power_dbm", "inf", "from -100")),
    "unknown key": ("power_dbm =", "power_dmb =", ("cell.power_dmb", "23", "power_dbm?")),
    "unknown model": ('"llama-68m"', '"llama-67m"', ("models.draft", "llama-67m", "llama-68m")),
    "empty list": ("alphas = [0.6, 0.8, 0.9]", "alphas = []", ("delay.alphas", "[]", "a list")),
    "one bad item": ('metrics = ["mean",', 'metrics = ["p99",', ("run.metrics", "p99", "mean")),
    "no joint": ('"joint", ', "", ("schemes.names", "'joint-step'", "joint, joint-step")),
    "order": ("min_tokens = 4", "min_tokens = 2000", ("tasks.max_tokens", "1024", "2000")),
    "missing table": ("\n[link]", "\n[lnk]", ("lnk", "rtt_s", "link")),
    "missing key": ("seeds = 20", "# seeds", ("run.seeds", "missing", "at least 5")),
    "not TOML": ("\n[cell]", "\n[cell", ("not TOML", "line", "]")),
    # Found when the nodes are built.
    "no room": (
        "max_tokens = 1024",
        "max_tokens = 60_000",
        ("tasks.max_tokens", "60000", "up to half of that is accepted"),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_scenario_is_one_line_with_file_key_value_and_what_is_accepted(
    case, tmp_path
) -> None:
    old, new, parts = BAD[case]
    text = PAPER.read_text()
    assert text.count(old) >= 1
    path = tmp_path / "scenario.toml"
    path.write_text(text.replace(old, new, 1))
    out = tmp_path / "out"
    ran = CliRunner().invoke(paper_command, ["--scenario", str(path), "--out", str(out)])
    assert ran.exit_code == 2
    lines = ran.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"{path}: ")
    assert all(part in lines[0] for part in parts), lines[0]
    assert not out.exists()


def test_a_scenario_that_is_not_there(tmp_path) -> None:
    with pytest.raises(ScenarioError, match=r"nowhere\.toml: cannot be read"):
        load(tmp_path / "nowhere.toml")


def test_the_papers_scenario_asks_for_what_the_issue_does() -> None:
    assert BASE.run.seeds >= 20
    assert (min(BASE.sweeps.num_tasks), max(BASE.sweeps.num_tasks)) == (10, 100)
    given = tomllib.loads(PAPER.read_text())
    assert set(given["sweeps"]) == {field.name for field in dataclasses.fields(BASE.sweeps)}


@pytest.fixture
def short_scenario(tmp_path):
    """The last value of every sweep, both ends of two, three tasks, some schemes."""
    head, sweeps = PAPER.read_text().split("[sweeps]")
    lines = []
    for line in sweeps.splitlines():
        key, _, values = line.partition(" = [")
        ends = values.split("]")[0].split(",")
        if key in ("payload_bytes", "num_tasks"):
            line = f"{key} = [{ends[0]}, {ends[-1]}]"
        elif values and key != "alphas":
            line = f"{key} = [{ends[-1]}]"
        lines.append(line.replace("num_points = 81", "num_points = 5"))
    head = head.replace("num = 100", "num = 3").replace("seeds = 20", "seeds = 5")
    for name in ("one-shot", "single-stream", "alternating", "greedy", "no-overlap"):
        head = head.replace(f'"{name}",', "")
    path = tmp_path / "short.toml"
    text = head + "[sweeps]" + "\n".join(lines)
    path.write_text(text.replace("num_tasks = [10,  100]", "num_tasks = [2, 3]"))
    return path


def test_the_command_writes_the_same_files_twice(tmp_path, short_scenario, monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr("bench.paper.report.plot_all", lambda *given: drawn.append(given))
    outs = [tmp_path / name for name in ("one", "two")]
    for out in outs:
        ran = CliRunner().invoke(
            paper_command, ["--scenario", str(short_scenario), "--out", str(out), "--seeds", "5"]
        )
        assert ran.exit_code == 0, ran.output
        assert ran.stdout == f"{out / 'report.md'}\n"
    names = sorted(file.name for file in outs[0].iterdir())
    assert {"report.md", "reductions.csv", "delay.csv", "payload.csv"} <= set(names)
    for name in names:
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()
    report = (outs[0] / "report.md").read_text()
    for part in ("44.9 %", "21.4 %", "uniform-air", "Critical delay", "3 tasks", "5 seeds"):
        assert part in report
    with (outs[0] / "num_tasks.csv").open() as file:
        rows = list(csv.DictReader(file))
    ends = [row for row in rows if row["scope"] == LATENCY]
    assert len(ends) == 2 * 2 * len(load(short_scenario).schemes.names)
    assert all(float(row["reduction"]) >= 0 for row in ends)
    assert [given[0] for given in drawn] == outs


def test_figures_are_drawn(tmp_path, short_scenario) -> None:
    pytest.importorskip("matplotlib")
    scenario = load(short_scenario)
    runner, sweeps = Runner(), {sweep.name: sweep for sweep in sweeps_of(scenario)}
    for name in ("num_tasks", "target_device"):
        results = [runner.result(point) for point in sweeps[name].points]
        plot_sweep(tmp_path / f"{name}.png", sweeps[name], results)
    results = [runner.result(point) for point in sweeps["payload"].points]
    plot_payload(tmp_path / "payload.png", results, ((UPLOAD, "uniform-air", 0.4, "mean"),))
    plot_delay(tmp_path / "delay.png", delay_curves(scenario))
    for name in ("num_tasks", "target_device", "payload", "delay"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
