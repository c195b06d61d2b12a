"""Random meshes for the closed loop, with plausible edge devices, links and users."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from bench.sim.scenario import Scenario, SimClient, SimDraftNode
from policies.latency import CostTable, NodeCosts
from policies.plan import Link

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def table(first_s: float, knee: float, per_token: float) -> CostTable:
    """Return a table in which a pass of t tokens takes first_s (1 + per_token max(0, t - knee)).

    A pass takes 0.2 % more for each token.
    """
    seconds = [first_s * (1.0 + per_token * max(0.0, size - knee)) for size in _SIZES]
    # Even in the flat part each token reads some more memory.
    return CostTable(
        _SIZES, tuple(s * (1.0 + 0.002 * t) for s, t in zip(seconds, _SIZES, strict=True))
    )


def node_costs(first_s: float, knee: float, per_token: float) -> NodeCosts:
    decode = table(first_s, knee, per_token)
    # Reading a prompt needs no logits and uses the device better.
    sizes = (32, 64, 256)
    seconds = (decode.at(32), max(decode.at(32), 0.8 * decode.at(64)))
    prefill = CostTable(sizes, (*seconds, max(seconds[-1], 0.6 * decode.at(256))))
    return NodeCosts(decode, prefill)


def random_scenario(seed: int, num_passes: int = 600) -> Scenario:
    """Draw a mesh that lasts as long as num_passes plain passes of all streams.

    Ranges: flat and steep verify tables, acceptance 0.3 to 0.95, rtt 1 to 120 ms (that of each node
    0.7 to 1.4 times as long), 1 to 32 streams, 1 to 4 draft nodes. Streams and draft nodes come and
    go.
    """
    random = Random(seed)
    num_clients = random.randint(1, 32)
    first_s = 10 ** random.uniform(-2.1, -1.0)
    is_flat = random.random() < 0.5
    knee = random.choice([1, 4, 16, 64]) if is_flat else 1
    target = node_costs(
        first_s, knee, random.uniform(0.005, 0.03) if is_flat else random.uniform(0.1, 0.6)
    )
    duration_s = num_passes * target.decode.at(num_clients)
    rtt_s = 10 ** random.uniform(-3.0, -0.92)
    medium = "cell" if random.random() < 0.4 else ""
    rate_bps = 10 ** random.uniform(5.0, 8.0)
    frame_s = 10 ** random.uniform(-4.0, -2.7)
    drafts = []
    for _ in range(random.randint(1, 4)):
        draft_s = first_s * 10 ** random.uniform(-1.5, -0.4)
        costs = node_costs(draft_s, random.choice([1, 4, 16]), random.uniform(0.01, 0.4))
        link = Link(rate_bps, rtt_s * random.uniform(0.7, 1.4), medium, frame_s)
        away = None
        if random.random() < 0.25:
            start = random.uniform(0.2, 0.6) * duration_s
            away = (start, start + random.uniform(0.1, 0.3) * duration_s)
        drafts.append(SimDraftNode(costs=costs, link=link, away=away))
    low = random.uniform(0.3, 0.9)
    high = random.uniform(low, 0.95)
    clients = []
    for _ in range(num_clients):
        alpha = random.uniform(low, high)
        # Later guesses are accepted a little less often, even if those before were accepted.
        fall = random.uniform(0.0, 0.02)
        alphas = tuple(max(0.05, alpha - fall * position) for position in range(8))
        length = random.randint(24, 160)
        clients.append(
            SimClient(
                alphas=alphas,
                num_prompt_tokens=random.randint(8, 128),
                max_tokens=(length, 2 * length),
                think_s=random.choice([0.0, 0.02, 0.1]) * duration_s,
                starts_at=random.uniform(0.0, 0.05) * duration_s,
                believed=alphas,
            )
        )
    return Scenario(
        seed=seed,
        target=target,
        drafts=tuple(drafts),
        clients=tuple(clients),
        duration_s=duration_s,
        warm_up_s=0.1 * duration_s,
    )


def with_acceptance_off_by(scenario: Scenario, error: float) -> Scenario:
    """Return the scenario with believed acceptance too high or low by up to `error` per stream."""
    random = Random(scenario.seed + 1)

    def off(client: SimClient) -> SimClient:
        shift = random.uniform(-error, error)
        wrong = tuple(min(0.97, max(0.05, alpha + shift)) for alpha in client.alphas)
        return replace(client, believed=wrong)

    return replace(scenario, clients=tuple(map(off, scenario.clients)))


def with_draft_costs_off_by(scenario: Scenario, factor: float) -> Scenario:
    """Return the scenario with believed draft costs `factor` times the true ones."""

    def off(node: SimDraftNode) -> SimDraftNode:
        costs = node.costs
        believed = NodeCosts(costs.decode.scaled(factor), costs.prefill.scaled(factor))
        return replace(node, believed=believed)

    return replace(scenario, drafts=tuple(map(off, scenario.drafts)))


def with_learnt_acceptance(scenario: Scenario) -> Scenario:
    """Return the scenario without beliefs: acceptance is learnt from guesses alone."""
    clients = tuple(replace(client, believed=None) for client in scenario.clients)
    return replace(scenario, clients=clients)


def with_uneven_tokens(scenario: Scenario) -> Scenario:
    """Return the scenario with tokens of different chances, as in real drafts, and no beliefs."""
    clients = tuple(replace(client, believed=None, evenness=1.0) for client in scenario.clients)
    return replace(scenario, clients=clients)


def steady(scenario: Scenario) -> Scenario:
    """Return the same mesh with no stream or node coming or going, as a plan assumes."""
    clients = tuple(
        replace(client, max_tokens=(100_000, 100_000), think_s=0.0, starts_at=0.0)
        for client in scenario.clients
    )
    drafts = tuple(replace(draft, away=None) for draft in scenario.drafts)
    return replace(scenario, clients=clients, drafts=drafts)
