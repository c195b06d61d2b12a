"""Builds the parts of the status document from data of the coordinator and schedulers. Pure."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from mesh.json_form import copied_from
from nodes.coordinator.members.record import NodeRecord
from nodes.coordinator.requests.request import Choice
from nodes.scheduler import Scheduler
from nodes.scheduler.drafts import Drafts
from nodes.scheduler.planning import observed_price_s
from nodes.scheduler.stream import Opening, Stream
from nodes.telemetry.counts import FATES, PLAIN_LABELS, TOKEN_KINDS, Counts
from nodes.telemetry.status import (
    BatchStatus,
    CostPoint,
    CountStatus,
    ErrorStatus,
    NodeStatus,
    ObservedStatus,
    PlanStatus,
    RatioStatus,
    SpanStatus,
    StreamStatus,
    finite,
)
from policies.latency import NodeCosts
from policies.plan import Batch, BatchTimes

_MAX_NAME, _MAX_LINE = 64, 200
_COST_SIZES: Final = (1, 2, 4, 8, 16, 32)
_SPANS_S: Final = 10.0
_NO_TIMES: Final = BatchTimes(0.0, 0.0, 0.0, 0.0, 0)


def number(value: float, digits: int) -> float:
    """Return a rounded value, or 0.0 for infinity and NaN, which JSON cannot hold.

    Such a value must not end the coordinator.
    """
    return round(float(value), digits) if math.isfinite(value) else 0.0


def cut(name: str, most: int = _MAX_NAME) -> str:
    return name[:most]


# -- nodes -----------------------------------------------------------------------------------------


def costs_now(node: NodeRecord, drafts: Drafts) -> NodeCosts | None:
    """Return a node's pass costs as observed since its calibration; None if it has no streams."""
    if node.scheduler is not None:
        return node.scheduler.target.now()
    record = drafts.get(node.name)
    return record.costs if record is not None else None


def node_status(
    node: NodeRecord,
    *,
    state: str,
    reason: str = "",
    silent_s: float = 0.0,
    joined_s: float = 0.0,
    busy: float = 0.0,
    num_streams: int = 0,
    costs: NodeCosts | None = None,
) -> NodeStatus:
    """Return the entry of a node. costs: as observed since its calibration."""
    profile, heartbeat = node.profile, node.heartbeat
    declared, measured = profile.link.rate_bps, heartbeat.rate.bps
    now = (costs or node.costs).decode
    points = tuple(
        CostPoint(size, number(node.costs.decode.at(size), 7), number(now.at(size), 7))
        for size in _COST_SIZES
    )
    return NodeStatus(
        name=cut(node.name),
        role=node.role,
        model=cut(profile.model),
        engine=cut(profile.engine),
        exact=profile.exact,
        emulated=profile.emulated,
        state=state,
        reason=cut(reason, _MAX_LINE),
        silent_s=number(silent_s, 3),
        joined_s=number(joined_s, 3),
        rtt_s=finite(heartbeat.rtt_s),
        rate_bps=finite(declared or measured),
        rate_is="declared" if declared else "measured" if measured else "unknown",
        medium=cut(profile.link.air),
        num_streams=num_streams,
        max_streams=profile.max_streams,
        used_cells=node.used_cells,
        num_cells=profile.num_cells,
        busy=number(busy, 4),
        busy_s=number(node.busy_s, 6),
        bytes_in=node.bytes_in,
        bytes_out=node.bytes_out,
        costs=points,
        model_hash=cut(profile.model_hash),
        numerics_class=cut(profile.numerics_class),
    )


# -- streams ---------------------------------------------------------------------------------------


def stream_status(
    choice: Choice,
    aliases: tuple[str, str],
    age_s: float,
    stream: Stream | None,
    tokens_per_s: float = 0.0,
    plain: tuple[str, str] = ("", ""),
) -> StreamStatus:
    """Return the entry of a stream.

    aliases: of its client and user. stream: None while it waits. plain: label and line that explain
    why it had no guesses in its last pass; both are empty if it had some.
    """
    spec = choice.spec
    known = stream if stream is not None else Stream(spec, [])
    return StreamStatus(
        stream_id=spec.stream_id,
        client=aliases[0],
        user=aliases[1],
        priority=choice.request.submit.priority,
        target=cut(choice.target),
        draft=cut(known.follow.node) if known.follow is not None else "",
        phase=_phase(stream),
        num_prompt_tokens=spec.num_prompt_tokens,
        num_tokens=choice.num_tokens,
        max_tokens=spec.max_tokens,
        gamma=known.num_guesses,
        acceptance=number(known.acceptance.alpha, 4) if stream is not None else 0.0,
        plain=plain[0],
        reason=cut(plain[1], _MAX_LINE),
        tokens_per_s=number(tokens_per_s, 3),
        age_s=number(age_s, 3),
        num_rounds=known.figures.num_rounds,
        num_draft_tokens=known.figures.num_draft_tokens,
        num_accepted_tokens=known.figures.num_accepted_tokens,
    )


def _phase(stream: Stream | None) -> str:
    if stream is None:
        return "waiting"
    if isinstance(stream.phase, Opening):
        return "parked" if stream.is_parked else "reading"
    return "decoding"


# -- targets ---------------------------------------------------------------------------------------


def plan_status(scheduler: Scheduler) -> PlanStatus:
    plan, made, last = scheduler.plan, scheduler.plan.prediction, scheduler.last_made
    times = made.batches if made is not None else ()
    batches = [
        _batch(batch, times[k] if k < len(times) else _NO_TIMES)
        for k, batch in enumerate(plan.batches)
    ]
    return PlanStatus(
        policy=cut(plan.policy) if scheduler.mode.has_guesses else "plain",
        batches=tuple(batches),
        plain=tuple(map(int, plan.plain)),
        bound=cut(made.bound, _MAX_LINE) if made is not None else "",
        tokens_per_s=number(made.tokens_per_s, 3) if made is not None else 0.0,
        open_price_s=number(last.open_s if last is not None else 0.0, 6),
        grouped_price_s=number(last.grouped_s if last is not None else 0.0, 6),
    )


def _batch(batch: Batch, times: BatchTimes) -> BatchStatus:
    return BatchStatus(
        stream_ids=tuple(map(int, batch.stream_ids)),
        gammas=tuple(map(int, batch.gammas)),
        draft_s=number(times.draft_s, 6),
        air_s=number(times.air_s, 6),
        verify_s=number(times.verify_s, 6),
        round_s=number(times.round_s, 6),
        num_tokens=int(times.num_tokens),
    )


def observed_status(
    scheduler: Scheduler, *, tokens_per_s: float, passes_per_s: float
) -> ObservedStatus:
    errors = {
        str(stage): ErrorStatus(found.num_seen, number(found.median, 4), number(found.p95, 4))
        for stage, found in scheduler.counts.errors().items()
    }
    rates = number(tokens_per_s, 3), number(passes_per_s, 3)
    return ObservedStatus(*rates, number(observed_price_s(scheduler), 6), errors)


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
        plain_steps={label: counts.plain_steps[label] for label in PLAIN_LABELS},
        guesses={fate: counts.guesses[fate] for fate in FATES},
        pass_s=number(counts.pass_s, 6),
        ratios={
            stage: RatioStatus(tuple(ratios.counts), number(ratios.total, 4))
            for stage, ratios in counts.ratios.items()
        },
    )


def spans_of(counts: Counts, now: float) -> tuple[SpanStatus, ...]:
    """Return the spans of the last _SPANS_S seconds, the oldest first."""
    return tuple(
        replace(
            span, node=cut(span.node), start_s=number(span.start_s, 6), end_s=number(span.end_s, 6)
        )
        for span in counts.spans
        if span.end_s >= now - _SPANS_S
    )
