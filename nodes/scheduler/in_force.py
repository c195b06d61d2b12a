"""Makes plans for the streams of a target, and puts them in force. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from airdraft.nodes.messages import HoldEntry, HoldNotice
from airdraft.nodes.scheduler.comparison import Speculation
from airdraft.nodes.scheduler.instructions import Instruction, ToTarget
from airdraft.nodes.scheduler.planning import (
    OPEN_FLOW_PLAN,
    Hold,
    PlanInput,
    PlanResult,
    holds_of,
    promises,
)
from airdraft.nodes.scheduler.silences import LOOK_S
from airdraft.nodes.scheduler.state import SchedulerState
from airdraft.nodes.scheduler.stream import Running, Stream
from airdraft.nodes.worker.stream import StreamId
from airdraft.policies.plan import Observation, StreamView


def begin_plan(state: SchedulerState, now: float) -> PlanInput | None:
    """Returns the inputs of a plan if one is due.

    The caller may run make() on any thread and gives its result to take_plan().
    """
    if now < state.plan_at:
        return None
    state.plan_at, state.is_plan_due = now + LOOK_S, False
    if not has_ready_followers(state):
        return None
    observation = observation_of(state, now)
    return PlanInput(observation, state.mode.policy)


def take_plan(state: SchedulerState, made: PlanResult) -> list[Instruction]:
    """Put a plan in force, even if streams have changed since it was begun."""
    predicted_s = made.grouped_s if state.is_grouped else made.open_s
    observed_s = observed_price_s(state)
    state.counts.ratios["plan"].observe(observed_s, predicted_s)
    if state.mode.is_grouped is None:
        state.is_grouped = promises(made)
    state.last_result = made
    state.plan = made.grouped if state.is_grouped else OPEN_FLOW_PLAN
    return put_in_force(state, holds_of(state.plan))


def has_ready_followers(state: SchedulerState) -> bool:
    """Whether a draft node guesses for any stream that decodes, so that streams could wait."""
    return state.speculation is Speculation.ON and any(
        isinstance(s.phase, Running) and s.follow is not None and s.follow.is_ready
        for s in state.streams.values()
    )


def observed_price_s(state: SchedulerState) -> float:
    """The recent weighted sum over streams of seconds a token; 0.0 if too little is known."""
    streams = [s for s in state.streams.values() if isinstance(s.phase, Running)]
    if not streams or not all(stream.interval_s for stream in streams):
        return 0.0
    return sum(s.spec.weight * s.interval_s / s.tokens_a_pass for s in streams)


def observation_of(state: SchedulerState, now: float) -> Observation:
    """Returns what a policy plans by: the streams that decode, their draft nodes, the target."""
    target = state.target
    streams = [s for s in state.streams.values() if isinstance(s.phase, Running)]
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
        view = state.drafts[name].view
        link = replace(view.link, rtt_s=view.link.rtt_s + state.link.rtt_s)
        drafts.append(replace(view, link=link, used_cells=num_cells))
    return Observation(
        streams=tuple(views),
        target=target.now(used / max(1, len(streams))),
        drafts=tuple(drafts),
        used_cells=used,
        prefill_share=target.prefill_share(now),
        token_bits=state.token_bits,
        target_link=state.link,
        groups=tuple(batch.stream_ids for batch in state.plan.batches),
    )


def put_in_force(state: SchedulerState, holds: dict[int, Hold]) -> list[Instruction]:
    """Put the holds of a new plan in force; streams that it does not name are held no longer."""
    # Some streams may have left while the plan was made.
    holds = {s: hold for s, hold in holds.items() if StreamId(s) in state.streams}
    before, state.holds = state.holds, holds
    changed = [s for s in {**before, **holds} if before.get(s) != holds.get(s)]
    return send_holds(state, (state.streams[StreamId(stream_id)] for stream_id in changed))


def send_holds(state: SchedulerState, streams: Iterable[Stream]) -> list[Instruction]:
    """Send the target the holds of these streams, except those that it has not read yet."""
    entries = []
    for stream in streams:
        if isinstance(stream.phase, Running):
            spec, hold = stream.spec, state.holds.get(stream.spec.stream_id, Hold())
            known = spec.stream_id, spec.generation, hold.group, hold.num_guesses
            entries.append(HoldEntry(*known, round(hold.most_s * 1e6)))
    return [ToTarget(HoldNotice(tuple(entries)))] if entries else []
