"""Builds the parts of the status document from data of the coordinator and schedulers. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from airdraft.mesh.json_form import copied_from
from airdraft.nodes.coordinator.members.record import NodeRecord, TargetRecord
from airdraft.nodes.coordinator.requests.request import RequestStream
from airdraft.nodes.scheduler.scheduler import Scheduler
from airdraft.nodes.scheduler.stream import ReadingText, Stream
from airdraft.nodes.telemetry.counts import FATES, PLAIN_TEXTS, TOKEN_KINDS, Counts
from airdraft.nodes.telemetry.status import (
    CountStatus,
    NodeStatus,
    PlanStatus,
    StreamStatus,
    finite,
)

_MAX_NAME, _MAX_LINE = 64, 200


def cut(name: str, most: int = _MAX_NAME) -> str:
    return name[:most]


# -- nodes -----------------------------------------------------------------------------------------


def node_status(
    node: NodeRecord,
    *,
    state: str,
    reason: str = "",
    silent_s: float = 0.0,
    joined_s: float = 0.0,
    busy: float = 0.0,
    num_streams: int = 0,
) -> NodeStatus:
    profile, heartbeat = node.profile, node.heartbeat
    target = node if isinstance(node, TargetRecord) else None
    declared, measured = profile.link.rate_bps, heartbeat.rate.bps
    return NodeStatus(
        name=node.name,
        role=node.role.value,
        model=cut(profile.model),
        engine=cut(profile.engine),
        exact=profile.exact,
        takes_guesses=profile.can_take_back,
        emulated=profile.emulated,
        state=state,
        reason=cut(reason, _MAX_LINE),
        silent_s=silent_s,
        joined_s=joined_s,
        rtt_s=finite(heartbeat.rtt_s),
        rate_bps=finite(declared or measured),
        rate_is="declared" if declared else "measured" if measured else "unknown",
        medium=cut(profile.link.air),
        num_streams=num_streams,
        max_streams=profile.max_streams,
        # A node that left holds no stream, but its record was made while it still did.
        used_cells=0 if target is None or state == "left" else target.admitted_cells,
        num_cells=profile.num_cells,
        max_length=profile.max_length,
        busy=busy,
        bytes_in=node.bytes_in,
        bytes_out=node.bytes_out,
        draft="" if target is None else cut(target.scheduler.inside),
        draft_why="" if target is None else cut(target.draft_why, _MAX_LINE),
        model_hash=cut(profile.model_hash),
        numerics_class=cut(profile.numerics_class),
    )


# -- streams ---------------------------------------------------------------------------------------


def stream_status(
    mine: RequestStream,
    aliases: tuple[str, str],
    stream: Stream | None,
    tokens_per_s: float = 0.0,
    plain: tuple[str, str] = ("", ""),
) -> StreamStatus:
    """Returns the entry of a stream.

    aliases: of its client and user. stream: None while it waits. plain: label and line that explain
    why it had no guesses in its last pass; both are empty if it had some.
    """
    spec = mine.spec
    known = stream if stream is not None else Stream(spec, [])
    return StreamStatus(
        stream_id=spec.stream_id,
        client=aliases[0],
        user=aliases[1],
        target=mine.target_name,
        draft=known.follow.node if known.follow is not None else "",
        phase=_phase(stream),
        num_tokens=mine.num_tokens,
        max_tokens=spec.max_tokens,
        gamma=known.num_guesses,
        acceptance=known.acceptance.alpha if stream is not None else 0.0,
        plain=plain[0],
        reason=cut(plain[1], _MAX_LINE),
        tokens_per_s=tokens_per_s,
        num_draft_tokens=known.figures.num_draft_tokens,
        num_accepted_tokens=known.figures.num_accepted_tokens,
    )


def phases_of(schedulers: Iterable[Scheduler]) -> dict[str, int]:
    """Returns the streams of these targets by phase."""
    found = Counter(_phase(stream) for each in schedulers for stream in each.streams.values())
    return {phase: found[phase] for phase in ("reading", "decoding", "parked")}


def _phase(stream: Stream | None) -> str:
    if stream is None:
        return "waiting"
    if isinstance(stream.phase, ReadingText):
        return "parked" if stream.is_parked else "reading"
    return "decoding"


# -- targets ---------------------------------------------------------------------------------------


def plan_status(scheduler: Scheduler) -> PlanStatus:
    plan, last = scheduler.plan, scheduler.last_result
    return PlanStatus(
        policy=plan.policy if scheduler.mode.has_guesses else "plain",
        groups=tuple(batch.gammas for batch in plan.batches),
        bound=cut(plan.prediction.bound if plan.prediction is not None else "", _MAX_LINE),
        open_price_s=last.open_s if last is not None else 0.0,
        grouped_price_s=last.grouped_s if last is not None else 0.0,
    )


def count_status(counts: Counts) -> CountStatus:
    made, judged, accepted = counts.by_position()
    return copied_from(
        counts,
        CountStatus,
        tokens={kind: counts.tokens[kind] for kind in TOKEN_KINDS},
        made=made,
        judged=judged,
        accepted=accepted,
        gammas=tuple(counts.by_made),
        plain_steps={label: counts.plain_steps[label] for label in PLAIN_TEXTS},
        guesses={fate: counts.guesses[fate] for fate in FATES},
    )
