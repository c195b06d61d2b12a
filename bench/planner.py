"""What planning costs: the live planner on random observations, one core."""

from __future__ import annotations

import statistics
import time
from random import Random

from bench.sim.random_scenarios import node_costs
from policies.cuts import best_plan
from policies.exact import exact_plan
from policies.joint import joint_plan
from policies.plan import DraftView, Link, Observation, StreamView
from policies.problem import problem_of

SIZES = (8, 32, 256)


def random_observation(random: Random, num_streams: int, num_drafts: int) -> Observation:
    """Streams of mixed acceptance on draft nodes of mixed speed."""
    first_s = 10 ** random.uniform(-2.1, -1.0)
    is_flat = random.random() < 0.5
    drafts = tuple(
        DraftView(
            f"draft-{number}",
            node_costs(first_s * 10 ** random.uniform(-1.5, -0.4), 4, random.uniform(0.01, 0.4)),
            Link(10 ** random.uniform(5, 8), 10 ** random.uniform(-3, -1), "cell", 5e-4),
        )
        for number in range(num_drafts)
    )
    streams = tuple(
        StreamView(
            number,
            random.uniform(0.3, 0.95),
            random.randint(1, 400),
            draft=f"draft-{random.randrange(num_drafts)}",
        )
        for number in range(num_streams)
    )
    target = node_costs(first_s, 16 if is_flat else 1, random.uniform(0.005, 0.5))
    return Observation(streams, target, drafts, used_cells=500 * num_streams)


def planning_times(num_streams: int, num_drafts: int, count: int, seed: int) -> list[float]:
    """Seconds of processor time of each of `count` plans, each of a new observation."""
    random = Random(seed)
    seconds = []
    for _ in range(count + 20):
        observation = random_observation(random, num_streams, num_drafts)
        start = time.thread_time()
        joint_plan(observation)
        seconds.append(time.thread_time() - start)
    # The first ones fill caches.
    return seconds[20:]


def table(count: int, seed: int = 1) -> str:
    """Median, 99th percentile and worst planning time by size, as Markdown."""
    lines = ["| streams | draft nodes | median ms | p99 ms | worst ms |", "|---|---|---|---|---|"]
    for num_streams in SIZES:
        for num_drafts in (1, 4):
            times = sorted(planning_times(num_streams, num_drafts, count, seed))
            p99 = times[int(0.99 * (len(times) - 1))]
            lines.append(
                f"| {num_streams} | {num_drafts} | {statistics.median(times) * 1e3:.2f} "
                f"| {p99 * 1e3:.2f} | {times[-1] * 1e3:.2f} |"
            )
    return "\n".join(lines)


def gap_to_exact(count: int, seed: int = 1) -> str:
    """How much dearer the live planner's plans are than the exact ones, for few streams."""
    random = Random(seed)
    gaps = []
    for _ in range(count):
        observation = random_observation(random, random.randint(1, 6), random.randint(1, 4))
        problem = problem_of(observation)
        gaps.append(best_plan(problem).price_s / exact_plan(problem).price_s - 1.0)
    gaps.sort()
    return (
        f"live plans to exact ones, {count} instances of 1 to 6 streams: "
        f"{statistics.mean(gaps):.3%} dearer on average, "
        f"{gaps[int(0.99 * (count - 1))]:.2%} at p99, {gaps[-1]:.1%} at most"
    )
