"""Random observations for tests of the planners: tables, links and streams of every kind."""

from random import Random

from policies.latency import CostTable, NodeCosts
from policies.plan import DraftView, Link, Observation, StreamView

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


def stream(random: Random, stream_id: int, names: list[str]) -> StreamView:
    """Mostly long and free in its gamma, now and then anything that a view allows."""
    alpha = random.choice((0.0, 1.0)) if random.random() < 0.05 else random.random()
    alphas: tuple[float, ...] = ()
    if random.random() < 0.2:
        decay = random.uniform(0.7, 1.05)
        alphas = tuple(min(1.0, alpha * decay**i) for i in range(random.randint(1, 10)))
    return StreamView(
        stream_id,
        alpha,
        tokens_left=random.randint(0, 6) if random.random() < 0.15 else random.randint(7, 500),
        fixed_gamma=random.choice((0, 1, 3, 4, 12)) if random.random() < 0.08 else None,
        draft=random.choice(names) if names and random.random() < 0.92 else None,
        weight=10 ** random.uniform(-1, 1) if random.random() < 0.3 else 1.0,
        alphas=alphas,
    )


def observation(seed: int, num_streams: int, max_drafts: int = 4) -> Observation:
    """num_streams streams on up to max_drafts draft nodes; stream ids in no order."""
    random = Random(f"{seed} {num_streams} {max_drafts}")
    first_s = 10 ** random.uniform(-2.3, -0.7)
    names = [f"draft-{j}" for j in range(random.randint(1, max_drafts))]
    if random.random() < 0.03:
        names = []
    ids = random.sample(range(100), num_streams) if num_streams <= 100 else range(num_streams)
    target = table(random, first_s)
    return Observation(
        streams=tuple(stream(random, stream_id, names) for stream_id in ids),
        target=NodeCosts(target, target),
        drafts=tuple(draft(random, name, first_s) for name in names),
        used_cells=random.choice((0, random.randint(1, 3000))),
        prefill_share=random.choice((0.0, 0.0, random.uniform(0.0, 0.7))),
        token_bits=random.choice((16, 32)),
    )
