"""The plan of one target: which streams wait for their guesses and are verified together. Pure.

The dynamic program of `policies/` forms groups of streams, with a number of guesses for each, and
predicts their price. It is compared with the predicted price of open flow, in which no stream
waits, and after a change with the price that was observed before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nodes.messages import MAX_GAMMA
from policies.baselines import SCHEMES, policy_of
from policies.joint import joint_plan
from policies.openflow import open_price_s
from policies.paper import paper_plan
from policies.plan import Observation, Plan, Policy

# Natural logarithm of the factor by which groups cost more than the program predicts. In 40
# simulated meshes in which groups were forced they had 0.83 of the speed of open flow on average:
# the program leaves out that a group waits for its last guess. The factor is larger than this
# figure, because a mesh that tries groups in vain loses some seconds.
_GROUPED_LOG_FACTOR: Final = 0.3
# The share by which groups must be cheaper beyond that, both predicted and observed: predictions
# are noisy, and a change of mode loses some passes.
_GAIN: Final = 0.05
# Seconds for which groups that were slower than open flow are not tried again; they double each
# time.
_LEAST_REST_S: Final = 60.0
_MOST_REST_S: Final = 3600.0
# Plans after a change until observed prices count, because the averages over passes lag behind.
_SETTLING_PLANS: Final = 5
# A stream waits for guesses up to this multiple of the predicted time.
_PATIENCE: Final = 1.5
_MOST_HOLD_S: Final = 5.0


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
class Wait:
    """What a stream waits for; fields as in HoldEntry, most_s in seconds."""

    group: int
    num_guesses: int
    most_s: float


NO_WAIT: Final = Wait(0, 0, 0.0)


@dataclass(frozen=True, slots=True)
class Made:
    """The result of planning.

    grouped: the program's plan. grouped_s, open_s: predicted prices of it and of open flow.
    """

    observation: Observation
    grouped: Plan
    grouped_s: float
    open_s: float


@dataclass(frozen=True, slots=True)
class Planning:
    """The inputs of a plan. make() reads nothing else, so any thread may call it."""

    observation: Observation
    policy: Policy

    def make(self) -> Made:
        plan = self.policy(self.observation)
        made = plan.prediction
        grouped_s = made.price_s if made is not None and plan.batches else math.inf
        return Made(self.observation, plan, grouped_s, open_price_s(self.observation))


@dataclass(slots=True)
class Choice:
    """Chooses between groups and open flow. is_forced: the choice never changes."""

    is_grouped: bool = False
    is_forced: bool = False
    # Observed price divided by the predicted price of open flow, when groups were put in force.
    # Prompts, other processes and errors of the tables affect it, and groups in the same way.
    _open_ratio: float = 0.0
    _num_plans: int = 0
    _rests_until: float = -math.inf
    _rest_s: float = _LEAST_REST_S

    def decide(self, made: Made, observed_s: float, now: float) -> bool:
        """Returns whether groups are in force from now on. observed_s: the recent price; 0.0 if
        not known."""
        self._num_plans += 1
        if self.is_forced:
            return self.is_grouped
        grouped_s = made.grouped_s * math.exp(_GROUPED_LOG_FACTOR)
        ratio = observed_s / made.open_s if made.open_s > 0.0 else 0.0
        is_settled = self._num_plans > _SETTLING_PLANS and ratio > 0.0
        if not self.is_grouped:
            promises = grouped_s < (1.0 - _GAIN) * made.open_s
            if promises and is_settled and now >= self._rests_until:
                self._change(to_groups=True)
                self._open_ratio = ratio
        elif is_settled and ratio > (1.0 - _GAIN) * self._open_ratio:
            self._rests_until = now + self._rest_s
            self._rest_s = min(_MOST_REST_S, 2 * self._rest_s)
            self._change(to_groups=False)
        elif grouped_s > made.open_s:
            self._change(to_groups=False)
        return self.is_grouped

    def _change(self, *, to_groups: bool) -> None:
        self.is_grouped, self._num_plans = to_groups, 0


def waits_of(plan: Plan) -> dict[int, Wait]:
    """Returns what each stream of a plan's batches waits for."""
    made = plan.prediction
    times = made.batches if made is not None else ()
    found = {}
    for k, batch in enumerate(plan.batches):
        # The wait is the predicted round without the pass.
        round_s = times[k].round_s - times[k].verify_s if k < len(times) else 0.0
        most_s = min(_MOST_HOLD_S, _PATIENCE * max(0.0, round_s))
        for stream_id, gamma in zip(batch.stream_ids, batch.gammas, strict=True):
            found[stream_id] = Wait(k + 1, min(MAX_GAMMA, gamma), most_s)
    return found


def changed(before: Mapping[int, Wait], after: Mapping[int, Wait]) -> Sequence[int]:
    """Returns the streams whose waits differ between the two plans."""
    return [s for s in dict.fromkeys([*before, *after]) if before.get(s) != after.get(s)]
