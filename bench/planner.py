"""The live planner's processor time on random observations, and its distance from exact plans."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from bench.exact import exact_plan
from bench.results.schema import Cell, Value
from bench.sim.random_scenarios import node_costs
from policies.joint import best_plan, joint_plan
from policies.plan import DraftView, Link, Observation, StreamView
from policies.problem import problem_of

SIZES = (8, 32, 256)
_SUITE = "planner (simulated meshes)"
_SYSTEM = "joint planner"


@dataclass(frozen=True, slots=True)
class Times:
    """Times of plans for meshes of one size. seconds: of processor time, ascending."""

    num_streams: int
    num_drafts: int
    seconds: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        return statistics.median(self.seconds) * 1e3

    @property
    def p99_ms(self) -> float:
        return self.seconds[int(0.99 * (len(self.seconds) - 1))] * 1e3

    @property
    def worst_ms(self) -> float:
        return self.seconds[-1] * 1e3


def random_observation(random: Random, num_streams: int, num_drafts: int) -> Observation:
    """Draw streams of mixed acceptance on draft nodes of mixed speed."""
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
    """Return the seconds of processor time of `count` plans, each of a new observation."""
    random = Random(seed)
    seconds = []
    for _ in range(count + 20):
        observation = random_observation(random, num_streams, num_drafts)
        start = time.thread_time()
        joint_plan(observation)
        seconds.append(time.thread_time() - start)
    # The first plans fill caches.
    return seconds[20:]


def times_by_size(count: int, seed: int = 1) -> list[Times]:
    """Measure each of SIZES with one draft node and with four."""
    return [
        Times(streams, drafts, tuple(sorted(planning_times(streams, drafts, count, seed))))
        for streams in SIZES
        for drafts in (1, 4)
    ]


def table(found: Sequence[Times]) -> str:
    """Return median, 99th percentile and worst planning time by size, as a Markdown table."""
    lines = ["| streams | draft nodes | median ms | p99 ms | worst ms |", "|---|---|---|---|---|"]
    lines += [
        f"| {times.num_streams} | {times.num_drafts} | {times.median_ms:.2f} "
        f"| {times.p99_ms:.2f} | {times.worst_ms:.2f} |"
        for times in found
    ]
    return "\n".join(lines)


def gaps_to_exact(count: int, seed: int = 1) -> list[float]:
    """Return by what fraction live plans are dearer than exact ones, for few streams; ascending."""
    random = Random(seed)
    gaps = []
    for _ in range(count):
        observation = random_observation(random, random.randint(1, 6), random.randint(1, 4))
        problem = problem_of(observation)
        gaps.append(best_plan(problem).price_s / exact_plan(problem).price_s - 1.0)
    return sorted(gaps)


def gap_line(gaps: Sequence[float]) -> str:
    return (
        f"live plans to exact ones, {len(gaps)} instances of 1 to 6 streams: "
        f"{statistics.mean(gaps):.3%} dearer on average, "
        f"{gaps[int(0.99 * (len(gaps) - 1))]:.2%} at p99, {gaps[-1]:.1%} at most"
    )


def cells(found: Sequence[Times], gaps: Sequence[float]) -> Iterator[Cell]:
    """Yield milliseconds of processor time by size, and the ratio of exact prices to live ones.

    The seed alone decides the ratio, so it is the same on every machine.
    """
    for times in found:
        values = (
            ("plan, median", times.median_ms),
            ("plan, p99", times.p99_ms),
            ("plan, worst", times.worst_ms),
        )
        yield Cell(
            suite=_SUITE,
            place=f"{times.num_streams} streams, {_counted(times.num_drafts, 'draft node')}",
            system=_SYSTEM,
            values=tuple(Value(metric=name, unit="ms", value=value) for name, value in values),
        )
    worth = Value(metric="exact price / price", unit="x", value=1 / (1 + statistics.mean(gaps)))
    yield Cell(
        suite=_SUITE,
        place="1 to 6 streams",
        system=_SYSTEM,
        reference="exact planner",
        ratios=(worth,),
        note=gap_line(gaps),
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
