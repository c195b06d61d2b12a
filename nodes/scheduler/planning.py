"""The plan of one target: which streams wait for their guesses and are verified together. Pure.

The dynamic program of `policies/` forms groups of streams, with a number of guesses for each, and
predicts their price. They are put in force where it is well below the predicted price of open flow,
in which no stream waits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from airdraft.nodes.messages import MAX_GAMMA, MAX_HOLD_US
from airdraft.policies.baselines import SCHEMES
from airdraft.policies.describe import policy_of
from airdraft.policies.joint import joint_plan
from airdraft.policies.openflow import open_price_s
from airdraft.policies.paper import paper_plan
from airdraft.policies.plan import Observation, Plan, Policy

OPEN_FLOW_PLAN: Final = Plan(policy="flow")

# Groups must be predicted to be cheaper than open flow by this factor. The program leaves out that
# a group waits for its last guess: in 40 simulated meshes in which groups were forced they had 0.83
# of the speed of open flow. The rest is for errors of the prediction.
_LEAST_PROMISE: Final = 1.4
# A stream waits for guesses up to this multiple of the predicted time.
_PATIENCE: Final = 1.5


@dataclass(frozen=True, slots=True)
class Mode:
    """How the streams of a target are served.

    policy: forms groups of streams that wait for each other. is_grouped: whether groups are in
    force; None: where they promise more than open flow. has_guesses: False for no draft nodes and
    no prompt lookup.
    """

    policy: Policy = joint_plan
    is_grouped: bool | None = None
    has_guesses: bool = True

    @property
    def compares(self) -> bool:
        """Whether decoding with and without draft nodes is compared from time to time."""
        return self.is_grouped is None


# All but "auto" are for comparisons: they force the groups of one policy, or no groups.
MODES: Final[Mapping[str, Mode]] = {
    "auto": Mode(),
    "open": Mode(is_grouped=False),
    "plain": Mode(is_grouped=False, has_guesses=False),
    "grouped": Mode(is_grouped=True),
    **{
        name: Mode(policy_of(name, scheme), is_grouped=True)
        for name, scheme in SCHEMES.items()
        if name != "ad"
    },
    "paper": Mode(paper_plan, is_grouped=True),
}


@dataclass(frozen=True, slots=True)
class Hold:
    """What a stream waits for; fields as in HoldEntry, most_s in seconds. Hold() is for nothing."""

    group: int = 0
    num_guesses: int = 0
    most_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PlanResult:
    """The result of planning.

    grouped: the program's plan. grouped_s, open_s: predicted prices of it and of open flow.
    """

    observation: Observation
    grouped: Plan
    grouped_s: float
    open_s: float


@dataclass(frozen=True, slots=True)
class PlanInput:
    """The inputs of a plan. make() reads nothing else, so any thread may call it."""

    observation: Observation
    policy: Policy

    def make(self) -> PlanResult:
        plan = self.policy(self.observation)
        made = plan.prediction
        grouped_s = made.price_s if made is not None and plan.batches else math.inf
        return PlanResult(self.observation, plan, grouped_s, open_price_s(self.observation))


def promises(made: PlanResult) -> bool:
    """Whether groups are predicted to be so much cheaper than open flow that they are worth it."""
    return _LEAST_PROMISE * made.grouped_s < made.open_s


def holds_of(plan: Plan) -> dict[int, Hold]:
    """Returns what each stream of a plan's batches waits for."""
    made = plan.prediction
    times = made.batches if made is not None else ()
    found = {}
    for k, batch in enumerate(plan.batches):
        # The hold is the predicted round without the pass.
        round_s = times[k].round_s - times[k].verify_s if k < len(times) else 0.0
        most_s = min(MAX_HOLD_US / 1e6, _PATIENCE * max(0.0, round_s))
        for stream_id, gamma in zip(batch.stream_ids, batch.gammas, strict=True):
            found[stream_id] = Hold(k + 1, min(MAX_GAMMA, gamma), most_s)
    return found
