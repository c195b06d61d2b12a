"""The plan of one target: which streams wait for their guesses and are verified together. Pure.

The dynamic program of `policies/` forms groups of streams, with a number of guesses for each, and
predicts their price. They are put in force where it is well below the predicted price of open flow,
in which no stream waits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from nodes.messages import MAX_GAMMA, MAX_HOLD_US, HoldEntry, HoldNotice
from nodes.scheduler.comparison import Speculation
from nodes.scheduler.instructions import Instruction, ToTarget
from nodes.scheduler.silences import LOOK_S
from nodes.scheduler.stream import Running, Stream
from nodes.worker.stream import StreamId
from policies.baselines import SCHEMES
from policies.describe import policy_of
from policies.joint import joint_plan
from policies.openflow import open_price_s
from policies.paper import paper_plan
from policies.plan import Observation, Plan, Policy, StreamView

if TYPE_CHECKING:
    from nodes.scheduler.scheduler import Scheduler

OPEN_FLOW_PLAN: Final = Plan(policy="flow")

# Groups must be predicted to be cheaper than open flow by this factor. The program leaves out that
# a group waits for its last guess: in 40 simulated meshes in which groups were forced they had 0.83
# of the speed of open flow. The rest is for errors of the prediction.
_LEAST_PROMISE: Final = 1.4
# A stream waits for guesses up to this multiple of the predicted time.
_PATIENCE: Final = 1.5
# How fast predicted prices are corrected by observed ones: by half in some six plans.
_FACTOR_RATE: Final = 0.1


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
class Wait:
    """What a stream waits for; fields as in HoldEntry, most_s in seconds. Wait() is for nothing."""

    group: int = 0
    num_guesses: int = 0
    most_s: float = 0.0


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
    """The inputs of a plan. make() reads nothing else, so any thread may call it.

    factor: what was in force has cost so far, divided by its prediction. Both prices have it, so it
    does not decide between them.
    """

    observation: Observation
    policy: Policy
    factor: float = 1.0

    def make(self) -> Made:
        plan = self.policy(self.observation)
        made = plan.prediction
        grouped_s = made.price_s if made is not None and plan.batches else math.inf
        open_s = open_price_s(self.observation)
        return Made(self.observation, plan, self.factor * grouped_s, self.factor * open_s)


def begin_plan(scheduler: Scheduler, now: float) -> Planning | None:
    """Returns the inputs of a plan if one is due.

    The caller may run make() on any thread and gives its result to take_plan().
    """
    if now < scheduler.plan_at:
        return None
    scheduler.plan_at, scheduler.is_plan_due = now + LOOK_S, False
    if not has_ready_followers(scheduler):
        return None
    observation = observation_of(scheduler, now)
    return Planning(observation, scheduler.mode.policy, scheduler.price_factor)


def take_plan(scheduler: Scheduler, made: Made) -> list[Instruction]:
    """Put a plan in force, even if streams have changed since it was begun."""
    predicted_s = made.grouped_s if scheduler.is_grouped else made.open_s
    observed_s = observed_price_s(scheduler)
    scheduler.counts.ratios["plan"].observe(observed_s, predicted_s)
    # A plan that could not be made predicts nothing.
    if observed_s and 0.0 < predicted_s < math.inf:
        scheduler.price_factor *= (observed_s / predicted_s) ** _FACTOR_RATE
    if scheduler.mode.is_grouped is None:
        scheduler.is_grouped = promises(made)
    scheduler.last_made = made
    scheduler.plan = made.grouped if scheduler.is_grouped else OPEN_FLOW_PLAN
    return wait(scheduler, waits_of(scheduler.plan))


def promises(made: Made) -> bool:
    """Whether groups are predicted to be so much cheaper than open flow that they are worth it."""
    return _LEAST_PROMISE * made.grouped_s < made.open_s


def has_ready_followers(scheduler: Scheduler) -> bool:
    """Whether a draft node guesses for any stream that decodes, so that streams could wait."""
    return scheduler.speculation is Speculation.ON and any(
        isinstance(s.phase, Running) and s.follow is not None and s.follow.is_ready
        for s in scheduler.streams.values()
    )


def observed_price_s(scheduler: Scheduler) -> float:
    """The recent weighted sum over streams of seconds a token; 0.0 if too little is known."""
    streams = [s for s in scheduler.streams.values() if isinstance(s.phase, Running)]
    if not streams or not all(stream.interval_s for stream in streams):
        return 0.0
    return sum(s.spec.weight * s.interval_s / s.tokens_a_pass for s in streams)


def observation_of(scheduler: Scheduler, now: float) -> Observation:
    """Returns what a policy plans by: the streams that decode, their draft nodes, the target."""
    target = scheduler.target
    streams = [s for s in scheduler.streams.values() if isinstance(s.phase, Running)]
    used = sum(len(stream.token_ids) for stream in streams)
    views, cells = [], dict[str, int]()
    for stream in streams:
        follow = stream.follow
        name = follow.node if follow is not None and follow.is_ready else None
        if name is not None:
            cells[name] = cells.get(name, 0) + len(stream.token_ids)
        views.append(
            StreamView(
                stream_id=stream.spec.stream_id,
                alpha=stream.acceptance.alpha,
                tokens_left=stream.tokens_left,
                fixed_gamma=stream.fixed_gamma,
                draft=name,
                weight=stream.spec.weight,
            )
        )
    drafts = []
    for name, num_cells in cells.items():
        view = scheduler.drafts[name].view
        link = replace(view.link, rtt_s=view.link.rtt_s + scheduler.link.rtt_s)
        drafts.append(replace(view, link=link, used_cells=num_cells))
    return Observation(
        streams=tuple(views),
        target=target.now(used / max(1, len(streams))),
        drafts=tuple(drafts),
        used_cells=used,
        prefill_share=target.prefill_share(now),
        token_bits=scheduler.token_bits,
        target_link=scheduler.link,
        groups=tuple(batch.stream_ids for batch in scheduler.plan.batches),
    )


def waits_of(plan: Plan) -> dict[int, Wait]:
    """Returns what each stream of a plan's batches waits for."""
    made = plan.prediction
    times = made.batches if made is not None else ()
    found = {}
    for k, batch in enumerate(plan.batches):
        # The wait is the predicted round without the pass.
        round_s = times[k].round_s - times[k].verify_s if k < len(times) else 0.0
        most_s = min(MAX_HOLD_US / 1e6, _PATIENCE * max(0.0, round_s))
        for stream_id, gamma in zip(batch.stream_ids, batch.gammas, strict=True):
            found[stream_id] = Wait(k + 1, min(MAX_GAMMA, gamma), most_s)
    return found


def wait(scheduler: Scheduler, waits: dict[int, Wait]) -> list[Instruction]:
    """Put the waits of a new plan in force; streams that it does not name no longer wait."""
    # Some streams may have left while the plan was made.
    waits = {s: wait for s, wait in waits.items() if StreamId(s) in scheduler.streams}
    before, scheduler.waits = scheduler.waits, waits
    changed = [s for s in {**before, **waits} if before.get(s) != waits.get(s)]
    return send_waits(scheduler, (scheduler.streams[StreamId(stream_id)] for stream_id in changed))


def send_waits(scheduler: Scheduler, streams: Iterable[Stream]) -> list[Instruction]:
    """Send the target the waits of these streams, except those that it has not read yet."""
    entries = []
    for stream in streams:
        if isinstance(stream.phase, Running):
            spec, wait = stream.spec, scheduler.waits.get(stream.spec.stream_id, Wait())
            known = spec.stream_id, spec.generation, wait.group, wait.num_guesses
            entries.append(HoldEntry(*known, round(wait.most_s * 1e6)))
    return [ToTarget(HoldNotice(tuple(entries)))] if entries else []
