"""The plan of one target: which streams wait for their guesses and are verified together. Pure.

The dynamic program of `policies/` says which streams would go together, with how many guesses each,
and what that would give. It is compared with what open flow would give, in which nobody waits, and
after a change with what was seen before it.
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

# What groups cost over what the program predicts (natural logarithm). In 40 simulated meshes in
# which they were forced they gave 0.83 of open flow on average: guesses arrive when they do, and
# the program's round leaves out that a group waits for its last. It is more than that figure says,
# for a mesh that tries groups in vain loses some seconds.
_GROUPED_OFF: Final = 0.3
# What groups must promise beyond that, and must be seen to give: what is known is noisy, and while
# streams change over some passes are lost.
_GAIN: Final = 0.05
# Groups that gave less than open flow are not tried again for so many seconds, twice as long each
# time.
_LEAST_REST_S: Final = 60.0
_MOST_REST_S: Final = 3600.0
# Plans after a change until what is seen counts: averages over passes have to follow.
_SETTLING: Final = 5
# Guesses that are late by this much of what was predicted are not waited for.
_PATIENCE: Final = 1.5
_MOST_HOLD_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Mode:
    """How the streams of a target are served. policy: makes groups of streams that wait for each
    other. is_grouped: whether these are in force whatever is predicted; None: where they promise
    more than open flow. has_guesses: without, no draft node follows and nothing is looked up.
    """

    policy: Policy = joint_plan
    is_grouped: bool | None = None
    has_guesses: bool = True


# All but "auto" are for comparisons: groups of one policy whatever they give, or no groups.
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
    """What a stream waits for; fields as in HoldEntry."""

    group: int
    num_guesses: int
    most_s: float


NO_WAIT: Final = Wait(0, 0, 0.0)


@dataclass(frozen=True, slots=True)
class Made:
    """grouped: the program's plan. grouped_s, open_s: predicted prices of it and of open flow."""

    observation: Observation
    grouped: Plan
    grouped_s: float
    open_s: float


@dataclass(frozen=True, slots=True)
class Planning:
    """A plan to be made: needs nothing but this, so any thread may make it."""

    observation: Observation
    policy: Policy

    def make(self) -> Made:
        plan = self.policy(self.observation)
        made = plan.prediction
        grouped_s = made.price_s if made is not None and plan.batches else math.inf
        return Made(self.observation, plan, grouped_s, open_price_s(self.observation))


@dataclass(slots=True)
class Choice:
    """Which of both ways is in force. is_forced: it stays."""

    is_grouped: bool = False
    is_forced: bool = False
    # Observed over predicted price of open flow when groups were put in force: prompts, other
    # processes and errors of the tables are in it, and weigh on both ways alike.
    _open_ratio: float = 0.0
    _num_plans: int = 0
    _rests_until: float = -math.inf
    _rest_s: float = _LEAST_REST_S

    def decide(self, made: Made, observed_s: float, now: float) -> bool:
        """Whether groups are in force from now on. observed_s: the price of late; 0.0 if not
        known."""
        self._num_plans += 1
        if self.is_forced:
            return self.is_grouped
        grouped_s = made.grouped_s * math.exp(_GROUPED_OFF)
        ratio = observed_s / made.open_s if made.open_s > 0.0 else 0.0
        is_settled = self._num_plans > _SETTLING and ratio > 0.0
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
    """What each stream of a plan's batches waits for."""
    made = plan.prediction
    times = made.batches if made is not None else ()
    found = {}
    for k, batch in enumerate(plan.batches):
        # Its round but for the pass, which is no waiting.
        round_s = times[k].round_s - times[k].verify_s if k < len(times) else 0.0
        most_s = min(_MOST_HOLD_S, _PATIENCE * max(0.0, round_s))
        for stream_id, gamma in zip(batch.stream_ids, batch.gammas, strict=True):
            found[stream_id] = Wait(k + 1, min(MAX_GAMMA, gamma), most_s)
    return found


def changed(before: Mapping[int, Wait], after: Mapping[int, Wait]) -> Sequence[int]:
    """Streams that wait for something else from now on."""
    return [s for s in dict.fromkeys([*before, *after]) if before.get(s) != after.get(s)]
