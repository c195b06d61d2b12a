"""Simulated meshes for tests, of costs that figures can be worked out from by hand."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench.sim.scenario import Scenario, SimClient, SimDraftNode
from policies.latency import CostTable, NodeCosts
from policies.plan import Link

# 10 ms for one token, 14 for two, 16 for four, 20 for eight, and 1 ms more for each further one.
TARGET = NodeCosts(
    CostTable((1, 2, 4, 8), (0.010, 0.014, 0.016, 0.020)), CostTable((32,), (0.012,))
)
# 2 ms for any number up to 32.
DRAFT_S = 2e-3
DRAFT = NodeCosts(CostTable((1, 32), (DRAFT_S, DRAFT_S)), CostTable((32,), (DRAFT_S,)))
WARM_UP_S = 2.0


def make_client(alpha: float = 0.8, **changes: Any) -> SimClient:
    """A client whose first answer lasts longer than any run here, and whose acceptance is known."""
    client = SimClient(
        alphas=(alpha,),
        num_prompt_tokens=8,
        max_tokens=(20_000, 20_000),
        think_s=0.0,
        starts_at=0.0,
        believed=(alpha,),
    )
    return replace(client, **changes)


def make_scenario(
    clients: Sequence[SimClient], links: Sequence[Link] = (), **changes: Any
) -> Scenario:
    """A draft node on each link."""
    scenario = Scenario(
        seed=1,
        target=TARGET,
        drafts=tuple(SimDraftNode(costs=DRAFT, link=link) for link in links),
        clients=tuple(clients),
        duration_s=15.0,
        warm_up_s=WARM_UP_S,
        noise=0.0,
        target_delay_s=1e-4,
    )
    return replace(scenario, **changes)
