"""What a simulated mesh is made of: its devices, links and users."""

from __future__ import annotations

from dataclasses import dataclass

from bench.sim.devices import Text
from policies.latency import NodeCosts
from policies.plan import Link


@dataclass(frozen=True, slots=True, kw_only=True)
class SimDraftNode:
    """A draft node. believed: what the scheduler is told of its costs, the truth if not given.
    away: (from, to) seconds in which it is gone.
    """

    costs: NodeCosts
    link: Link
    believed: NodeCosts | None = None
    away: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimClient:
    """A user who asks again some seconds after each answer.

    alphas: acceptance by place after the last committed token. believed: the same as draft models
    take it for; None: it is learnt. evenness: where given, tokens differ: each has a chance of its
    own, of a beta distribution with mean alphas[0], and more alike the greater this is; draft
    models know it. None: all are alike. weight: in the plan's objective. texts: asked for in turns;
    instead of drawn ones where given.
    """

    alphas: tuple[float, ...]
    num_prompt_tokens: int
    max_tokens: tuple[int, int]
    think_s: float
    starts_at: float
    believed: tuple[float, ...] | None = None
    evenness: float | None = None
    weight: float = 1.0
    texts: tuple[Text, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that a run depends on, but for the mode of planning. target_delay_s: one way,
    where there is no target_link: of a target on a medium.
    """

    seed: int
    target: NodeCosts
    drafts: tuple[SimDraftNode, ...]
    clients: tuple[SimClient, ...]
    duration_s: float
    warm_up_s: float = 0.0
    noise: float = 0.05
    target_delay_s: float = 1e-4
    target_link: Link | None = None
