"""The one-shot programs against a search over every cut and option, in plain Python."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from bench.paper.labels import solve_exact, solve_fast
from bench.paper.oneshot import OneShot, evaluate, option_gammas
from policies.latency import CostTable

# Largest gamma by number of streams, so that the search stays in the low thousands of plans.
MAX_GAMMA = {1: 8, 2: 8, 3: 8, 4: 4, 5: 3, 6: 2, 7: 1}
SIZES = (1, 2, 4, 8, 16, 32)
CLOCKS = ("draft_free_s", "air_free_s", "target_free_s")


def random_table(rng, base_s):
    kind = rng.integers(3)
    if kind == 0:
        seconds = base_s * (1.0 + 0.02 * np.arange(len(SIZES)))
    elif kind == 1:
        seconds = base_s * np.array(SIZES) ** 0.9
    else:
        seconds = base_s * np.cumsum(10 ** rng.uniform(-2.0, 0.0, len(SIZES)))
    return CostTable(SIZES, tuple(seconds.tolist()), float(rng.choice([0.0, 1e-3])) * base_s)


def plausible(rng, n):
    """Times of the size they have in a cell: the target mostly holds things up."""
    free_s = rng.uniform(-0.1, 0.2, 3)
    return {
        "weights": rng.uniform(0.2, 3.0, n),
        "ready_s": rng.uniform(-0.1, 0.3, n) * rng.integers(0, 2),
        "air_fixed_s": rng.uniform(0.0, 0.02, n) * rng.integers(0, 2),
        "air_per_guess_s": rng.uniform(0.0, 0.01, n) * rng.integers(0, 2),
        "draft": random_table(rng, 10 ** rng.uniform(-3.0, -1.5)),
        "target": random_table(rng, 10 ** rng.uniform(-2.0, -0.5)),
        "rtt_s": float(rng.uniform(0.0, 0.05)),
        **dict(zip(CLOCKS, free_s.tolist(), strict=True)),
    }


def wild(rng, n):
    """Times over orders of magnitude, so that every clock holds things up now and then."""

    def logs(low, high, size=None):
        return 10 ** rng.uniform(low, high, size)

    return {
        "weights": logs(-1.0, 1.0, n),
        "ready_s": logs(-2.0, 0.3, n) * rng.integers(0, 2, n),
        "air_fixed_s": logs(-3.0, 0.0, n) * rng.integers(0, 2, n),
        "air_per_guess_s": logs(-3.0, -0.5, n) * rng.integers(0, 2, n),
        "draft": random_table(rng, logs(-2.0, 0.0)),
        "target": random_table(rng, logs(-2.0, 0.0)),
        "rtt_s": float(logs(-3.0, -0.5)),
        **dict(zip(CLOCKS, logs(-2.0, 0.3, 3).tolist(), strict=True)),
    }


def random_problem(rng, n, max_gamma, *, times=plausible, objective="sum", num_thetas=0):
    """A problem at now = 0."""
    caps = np.full(n, max_gamma)
    if rng.random() < 0.5:
        caps = rng.integers(0, max_gamma + 1, n)
    return OneShot(
        alphas=rng.choice([0.0, 1.0], n) if rng.random() < 0.05 else rng.uniform(0.0, 1.0, n),
        contexts=rng.integers(0, 2, n) * rng.integers(0, 100, n),
        catch_up=rng.integers(1, 6, n),
        max_gamma=caps,
        thetas=tuple((10 ** rng.uniform(-3.0, 0.0, num_thetas)).tolist()),
        objective=objective,
        **times(rng, n),
    )


def moved(problem, seconds):
    """The same problem at another time of the clock."""
    fields = ("now_s", "ready_s", *CLOCKS)
    return replace(problem, **{name: getattr(problem, name) + seconds for name in fields})


def pass_s(table, num_tokens, used_cells):
    """A pass from the table's points, by hand."""
    if num_tokens == 0:
        return 0.0
    points = list(zip(table.sizes, table.seconds, strict=True))
    for (x, y), (next_x, next_y) in pairwise(points):
        if num_tokens <= next_x or next_x == points[-1][0]:
            base = y + (next_y - y) * (num_tokens - x) / (next_x - x)
            break
    return base + table.per_cell_s * used_cells * num_tokens


def tokens(alpha, gamma):
    return sum(alpha**i for i in range(gamma + 1))


def batch_times(p, start, end, gammas):
    """(ready, draft, air, verify, guesses) of one batch; gammas of its streams."""
    cells = sum(int(c) for c in p.contexts)
    streams = list(zip(range(start, end), gammas, strict=True))
    draft_s = pass_s(p.draft, sum(int(p.catch_up[k]) for k, g in streams if g), cells)
    for step in range(2, max(gammas) + 1):
        draft_s += pass_s(p.draft, sum(1 for g in gammas if g >= step), cells)
    air_s = sum(p.air_fixed_s[k] + g * p.air_per_guess_s[k] for k, g in streams if g)
    verify_s = pass_s(p.target, sum(g + 1 for g in gammas), cells)
    return max(p.ready_s[start:end].tolist()), draft_s, float(air_s), verify_s, any(gammas)


def after(p, clocks, times):
    draft_free, air_free, target_free = clocks
    ready, draft_s, air_s, verify_s, guesses = times
    if not guesses:
        return draft_free, air_free, max(target_free, ready) + verify_s
    draft_free = max(draft_free, ready + p.rtt_s / 2) + draft_s
    air_free = max(air_free, draft_free) + air_s
    return draft_free, air_free, max(target_free, air_free + p.rtt_s / 2) + verify_s


def first_clocks(p):
    return tuple(max(p.now_s, free) for free in (p.draft_free_s, p.air_free_s, p.target_free_s))


def costs_of(p, start, end, gammas):
    """What a second until verified costs: the objective's factor of the batch."""
    alphas, weights = p.alphas.tolist(), p.weights.tolist()
    paces = [1 / tokens(alphas[k], g) for k, g in zip(range(start, end), gammas, strict=True)]
    if p.objective == "makespan":
        return max(paces)
    return sum(w * pace for w, pace in zip(weights[start:end], paces, strict=True))


def joined(p, cost, added):
    return cost + added if p.objective == "sum" else max(cost, added)


def options_of(p):
    """Every option's gammas, the thresholds taken guess by guess."""
    caps = p.max_gamma.tolist()
    options = {tuple(min(gamma, cap) for cap in caps) for gamma in range(max(caps) + 1)}
    for theta in p.thetas:
        chosen = []
        for w, alpha, cap in zip(p.weights.tolist(), p.alphas.tolist(), caps, strict=True):
            g = 0
            while g < cap and w * (1 / tokens(alpha, g) - 1 / tokens(alpha, g + 1)) >= theta:
                g += 1
            chosen.append(g)
        options.add(tuple(chosen))
    return sorted(options)


def exhaustive(p):
    """Least cost over all cuts and options: every plan is followed to its end."""
    n, options = len(p.weights), options_of(p)
    batches = {}
    for start in range(n):
        for end in range(start + 1, n + 1):
            for gammas in {option[start:end] for option in options}:
                times = batch_times(p, start, end, gammas)
                entry = (end, times, costs_of(p, start, end, gammas))
                batches.setdefault(start, []).append(entry)

    def best(start, clocks, cost):
        if start == n:
            return cost
        least = math.inf
        for end, times, pace in batches[start]:
            later = after(p, clocks, times)
            total = best(end, later, joined(p, cost, pace * (later[2] - p.now_s)))
            least = min(least, total)
        return least

    return best(0, first_clocks(p), 0.0)


def followed(p, cuts, gammas):
    """(clocks after each batch, cost) of one plan."""
    clocks, cost, trail = first_clocks(p), 0.0, []
    for start, end in zip((0, *cuts), cuts, strict=False):
        part = gammas[start:end]
        clocks = after(p, clocks, batch_times(p, start, end, part))
        cost = joined(p, cost, costs_of(p, start, end, part) * (clocks[2] - p.now_s))
        trail.append(clocks)
    return trail, cost


@pytest.mark.slow
@pytest.mark.parametrize("times", [plausible, wild])
@pytest.mark.parametrize("num_thetas", [0, 2])
@pytest.mark.parametrize("objective", ["sum", "makespan"])
def test_the_exact_program_finds_what_a_search_over_everything_finds(objective, num_thetas, times):
    for seed in range(250):
        rng = np.random.default_rng((seed, num_thetas))
        n = int(rng.integers(1, 8))
        thetas = num_thetas if n < 6 else num_thetas // 2
        made = random_problem(
            rng, n, MAX_GAMMA[n], times=times, objective=objective, num_thetas=thetas
        )
        problem = moved(made, 5.0)
        plan = solve_exact(problem)
        assert plan.cost == pytest.approx(exhaustive(problem), rel=0, abs=1e-9), seed
        assert followed(problem, plan.cuts, plan.gammas)[1] == pytest.approx(plan.cost, abs=1e-9)
        assert solve_fast(problem).cost >= plan.cost - 1e-9


# Found by search: dominance that ignores the draft node's clock misses the best plan of the first
# three, dominance that ignores the medium's misses that of the others.
@pytest.mark.parametrize(
    ("objective", "n", "max_gamma", "seed"),
    [
        ("sum", 6, 3, 457),
        ("sum", 7, 2, 764),
        ("makespan", 4, 8, 575),
        ("sum", 4, 8, 57),
        ("sum", 5, 4, 189),
        ("sum", 7, 2, 25),
    ],
)
def test_no_clock_may_be_left_out_of_dominance(objective, n, max_gamma, seed):
    rng = np.random.default_rng((seed, n, max_gamma))
    problem = random_problem(rng, n, max_gamma, times=wild, objective=objective)
    assert solve_exact(problem).cost == pytest.approx(exhaustive(problem), rel=0, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sum", "makespan"])
def test_few_labels_stay_close_to_the_exact_plan_and_never_below_it(objective):
    gaps = []
    for seed in range(150):
        rng = np.random.default_rng((seed, 12))
        problem = random_problem(rng, 12, 8, objective=objective, num_thetas=2 * (seed % 2))
        exact = solve_exact(problem).cost
        gaps.append(solve_fast(problem).cost / exact - 1.0)
    assert min(gaps) >= -1e-9
    assert np.mean(gaps) <= 0.002


def test_more_labels_find_no_worse_plans_on_average():
    rng = np.random.default_rng(3)
    problems = [random_problem(rng, 10, 8, times=wild) for _ in range(40)]
    one, eight, many = (
        np.mean([solve_fast(p, num_labels).cost for p in problems]) for num_labels in (1, 8, 64)
    )
    assert many <= eight < one


def test_a_plan_has_the_clocks_and_cost_of_the_recursion():
    for seed in range(200):
        rng = np.random.default_rng((seed, 99))
        n = int(rng.integers(1, 10))
        problem = random_problem(rng, n, 8, objective=("sum", "makespan")[seed % 2])
        gammas = tuple(rng.integers(0, problem.max_gamma + 1).tolist())
        inner = rng.random(n - 1) < 0.4
        cuts = (*(np.flatnonzero(inner) + 1).tolist(), n)
        trail, cost = followed(problem, cuts, gammas)
        plan = evaluate(problem, cuts, gammas)
        assert plan.cost == pytest.approx(cost, abs=1e-9)
        assert np.allclose(plan.clocks, trail, rtol=0, atol=1e-9)
        assert (plan.cuts, plan.gammas) == (cuts, gammas)


def test_plans_do_not_depend_on_where_the_clock_starts():
    for seed in range(30):
        here = random_problem(np.random.default_rng(seed), 6, 8)
        # A clock as large as that of the epoch has tenths of microseconds left.
        assert solve_exact(moved(here, 1.7e9)).cost == pytest.approx(
            solve_exact(here).cost, rel=1e-5
        )


# Three streams with acceptance 1/2; passes of 10 ms + 2 ms a token, draft steps of 1 ms a token.
BY_HAND = OneShot(
    weights=np.array([1.0, 2.0, 4.0]),
    alphas=np.array([0.5, 0.5, 0.5]),
    ready_s=np.array([100.000, 100.002, 99.0]),
    contexts=np.array([0, 0, 0]),
    catch_up=np.array([1, 3, 1]),
    max_gamma=np.array([2, 2, 2]),
    air_fixed_s=np.array([0.001, 0.001, 0.001]),
    air_per_guess_s=np.array([0.002, 0.002, 0.002]),
    draft=CostTable((1, 2), (0.001, 0.002)),
    target=CostTable((1, 2), (0.012, 0.014)),
    rtt_s=0.004,
    now_s=100.0,
    air_free_s=100.015,
)


def test_two_batches_reckoned_by_hand():
    plan = evaluate(BY_HAND, (2, 3), (1, 2, 0))
    # Draft from 100.002 + 2 ms: a pass of 1 + 3 tokens, then one of 1. Air from 100.015: 3 + 5 ms.
    # Five tokens verified from 100.023 + 2 ms take 20 ms; then the third stream alone 12 ms.
    first, second = (100.009, 100.023, 100.045), (100.009, 100.023, 100.057)
    assert np.allclose(plan.clocks, [first, second], rtol=0, atol=1e-9)
    assert plan.cost == pytest.approx(0.045 * (1 / 1.5 + 2 / 1.75) + 0.057 * 4, abs=1e-9)
    slowest = evaluate(replace(BY_HAND, objective="makespan"), (2, 3), (1, 2, 0))
    assert slowest.cost == pytest.approx(0.057, abs=1e-9)


def test_the_options_by_hand():
    # Seconds a token at acceptance 1/2: 1, 2/3, 4/7: gains 1/3 and 2/21, times the weights.
    problem = replace(BY_HAND, thetas=(0.3, 0.7), max_gamma=np.array([2, 2, 1]))
    options = [[0, 0, 0], [0, 0, 1], [1, 1, 1], [2, 2, 1]]
    assert option_gammas(problem).tolist() == options


@pytest.mark.parametrize("cuts", [(), (3, 3), (2, 1, 3), (2,), (0, 3), (4,)])
def test_cuts_that_do_not_divide_the_streams_are_refused(cuts):
    with pytest.raises(ValueError, match="do not divide 3 streams"):
        evaluate(BY_HAND, cuts, (0, 0, 0))


@pytest.mark.parametrize("gammas", [(0, 0), (0, 0, 3), (0, -1, 0)])
def test_gammas_beyond_what_is_allowed_are_refused(gammas):
    with pytest.raises(ValueError, match="gammas"):
        evaluate(BY_HAND, (3,), gammas)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"weights": np.array([1.0, 0.0, 1.0])}, "weights has"),
        ({"alphas": np.array([0.5, math.nan, 0.5])}, "alphas has"),
        ({"alphas": np.array([0.5, 0.5])}, "alphas: one value a stream"),
        ({"max_gamma": np.array([9, 0, 0])}, "max_gamma has"),
        ({"catch_up": np.array([0, 1, 1])}, "catch_up has"),
        ({"rtt_s": -0.001}, "rtt_s and thetas"),
        ({"thetas": (math.nan,)}, "rtt_s and thetas"),
        ({"air_free_s": math.inf}, "clocks"),
    ],
)
def test_values_out_of_range_are_refused_by_name(change, named):
    with pytest.raises(ValueError, match=named):
        replace(BY_HAND, **change)


def test_no_label_at_all_is_refused():
    with pytest.raises(ValueError, match="at least one label"):
        solve_fast(BY_HAND, num_labels=0)
