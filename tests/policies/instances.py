"""Random observations for tests of the planners: tables, links and streams of every kind."""

from dataclasses import dataclass
from itertools import pairwise
from random import Random

import numpy as np

from airdraft.policies.cycle import CyclePlan
from airdraft.policies.latency import CostTable, NodeCosts
from airdraft.policies.plan import DraftView, Link, Observation, Plan, StreamView
from airdraft.policies.problem import CycleProblem

_SIZES = ((1, 2, 4, 8, 16, 32), (1, 4, 16, 64), (1, 2, 3, 5), (1,), (4, 24))


def table(random: Random, base_s: float) -> CostTable:
    """A table whose first size takes base_s: flat, steep, with a step, or noisy."""
    sizes = random.choice(_SIZES)
    kind = random.choice(("flat", "steep", "steppy", "noisy"))
    if kind == "flat":
        slope = random.uniform(0.0, 0.03)
        factors = [1.0 + slope * (size - 1) for size in sizes]
    elif kind == "steep":
        power = random.uniform(0.7, 1.1)
        factors = [size**power for size in sizes]
    elif kind == "steppy":
        edge, jump = random.choice((3, 8, 16)), random.uniform(1.2, 4.0)
        factors = [jump if size >= edge else 1.0 for size in sizes]
    else:
        slope = random.uniform(0.0, 0.5)
        factors = [(1.0 + slope * (size - 1)) * random.uniform(0.6, 1.6) for size in sizes]
    per_cell_s = base_s * random.choice((0.0, 0.0, 1e-5, 1e-4))
    return CostTable(sizes, tuple(base_s * factor for factor in factors), per_cell_s)


def link(random: Random) -> Link:
    """Fast or slow, on a shared medium or one of its own."""
    return Link(
        rate_bps=random.choice((float("inf"), 10 ** random.uniform(4.3, 6), 1e8)),
        rtt_s=random.choice((0.0, 10 ** random.uniform(-3.5, -0.7))),
        medium=random.choice(("", "cell", "cell", "lab")),
        frame_s=random.choice((0.0, 10 ** random.uniform(-4, -2))),
    )


def draft(random: Random, name: str, target_s: float) -> DraftView:
    """A draft node somewhat faster than a target that takes target_s for a token."""
    costs = table(random, target_s * 10 ** random.uniform(-2.0, -0.1))
    used_cells = random.choice((0, random.randint(1, 3000)))
    return DraftView(name, NodeCosts(costs, costs), link(random), used_cells)


@dataclass(frozen=True)
class Traits:
    """What the streams of one observation may differ in."""

    weighted: bool
    asked: bool
    short: bool


def stream(random: Random, stream_id: int, names: list[str], traits: Traits) -> StreamView:
    """Mostly long and free in its gamma, now and then anything that a view allows."""
    alpha = random.choice((0.0, 1.0)) if random.random() < 0.05 else random.random()
    is_short = traits.short and random.random() < 0.3
    is_asked = traits.asked and random.random() < 0.3
    return StreamView(
        stream_id,
        alpha,
        tokens_left=random.randint(0, 6) if is_short else random.randint(7, 500),
        fixed_gamma=random.choice((0, 1, 3, 4, 12)) if is_asked else None,
        draft=random.choice(names) if names and random.random() < 0.95 else None,
        weight=10 ** random.uniform(-1, 1) if traits.weighted else 1.0,
    )


def observation(seed: int, num_streams: int, *, target_on_air: bool = False) -> Observation:
    """num_streams streams on up to four draft nodes, their ids in no order. target_on_air: the
    target may be on the air too."""
    random = Random(f"{seed} {num_streams} 4")
    first_s = 10 ** random.uniform(-2.3, -0.7)
    names = [f"draft-{j}" for j in range(random.randint(1, 4))]
    if random.random() < 0.03:
        names = []
    traits = Traits(*(random.random() < chance for chance in (0.25, 0.25, 0.4)))
    target = table(random, first_s)
    return Observation(
        streams=tuple(
            stream(random, stream_id, names, traits)
            for stream_id in random.sample(range(4 * num_streams), num_streams)
        ),
        target=NodeCosts(target, target),
        drafts=tuple(draft(random, name, first_s) for name in names),
        used_cells=random.choice((0, random.randint(1, 3000))),
        prefill_share=random.choice((0.0, 0.0, random.uniform(0.0, 0.7))),
        token_bits=random.choice((16, 32)),
        target_link=link(Random(f"to the target {seed}")) if target_on_air else Link(),
    )


def random_plan(random: Random, problem: CycleProblem) -> CyclePlan:
    """Batches of any size, gammas of any size within what each stream may do."""
    n = problem.num_streams
    cuts = sorted(random.sample(range(1, n), random.randint(0, n - 1)))
    plain = random.choice((0.0, 0.2, 0.6))
    gammas = [0 if random.random() < plain else random.randint(1, 8) for _ in range(n)]
    return CyclePlan((0, *cuts, n), np.clip(gammas, problem.least, problem.most))


def batches_of(plan: Plan) -> list[list[tuple[int, int]]]:
    """Stream ids and gammas of each batch; those of the plain streams come last."""
    batches = [list(zip(b.stream_ids, b.gammas, strict=True)) for b in plan.batches]
    return [*batches, [(stream_id, 0) for stream_id in plan.plain]] if plan.plain else batches


def cut_of(problem: CycleProblem, plan: CyclePlan) -> list[list[tuple[int, int]]]:
    """The same of a cycle that is not described."""
    members = list(zip(problem.stream_ids, plan.gammas.tolist(), strict=True))
    return [members[first:end] for first, end in pairwise(plan.bounds)]
