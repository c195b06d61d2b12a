"""Records as spans of time on tracks: who did what from when to when.

All times are the coordinator's. What a node did is put before its answer by half the round trip of
its link, as far as it then lies between what the coordinator sent and heard: where it lies is an
estimate (a wait for a turn on the air is not known of), how long it took is what the node says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nodes.trace.records import (
    DraftRecord,
    GivenUpRecord,
    LapRecord,
    PassRecord,
    PlanRecord,
    Record,
    RoundRecord,
    TrialRecord,
    TrialResultRecord,
    VerifyRecord,
)
from policies.plan import Batch

Round = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Track:
    """A line of the drawing: `thread` of a group that is called `process`."""

    process: str
    thread: str


@dataclass(frozen=True, slots=True)
class Span:
    """parts: spans inside it. rounds: that it is a step of. No length: a moment."""

    track: Track
    name: str
    start_s: float
    end_s: float
    notes: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Span, ...] = ()
    rounds: tuple[Round, ...] = ()


def coordinator_track(target: str, thread: str) -> Track:
    return Track(f"coordinator, for {target}", thread)


def spans_of(records: Iterable[Record]) -> list[Span]:
    """Spans of records that are in the order in which they were made."""
    builder = _Builder()
    for record in records:
        builder.add(record)
    return builder.finished()


class _Builder:
    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._rounds: dict[Round, RoundRecord | TrialRecord] = {}
        self._verified_at: dict[Round, float] = {}
        self._plans: dict[str, PlanRecord] = {}
        self._pass_ends: dict[str, float] = {}
        self._last_s = 0.0

    def add(self, record: Record) -> None:
        self._last_s = record.at_s
        match record:
            case PlanRecord(target=target):
                self._end_plan(target)
                self._plans[target] = record
            case RoundRecord() | TrialRecord():
                self._rounds[record.target, record.round_id] = record
            case DraftRecord():
                self._draft(record)
            case GivenUpRecord():
                for node in record.nodes:
                    name = f"round {record.round_id} goes on without it"
                    self._moment(Track(f"draft node {node}", "draft"), name, record.at_s)
            case VerifyRecord(target=target, round_id=round_id, at_s=at_s):
                self._verified_at[target, round_id] = at_s
            case PassRecord():
                self._pass(record)
            case LapRecord():
                self._lap(record)
            case TrialResultRecord():
                name = (
                    f"stream {record.stream_id}: {record.num_right} of "
                    f"{record.num_draft_tokens} guesses right"
                )
                self._moment(coordinator_track(record.target, "trials"), name, record.at_s)

    def finished(self) -> list[Span]:
        for target in list(self._plans):
            self._end_plan(target)
        return self._spans

    def _moment(self, track: Track, name: str, at_s: float) -> None:
        self._spans.append(Span(track, name, at_s, at_s))

    def _end_plan(self, target: str) -> None:
        record = self._plans.pop(target, None)
        if record is None:
            return
        notes: dict[str, Any] = {
            "policy": record.policy,
            "batches": [dict(zip(b.stream_ids, b.gammas, strict=True)) for b in record.batches],
            "plain": list(record.plain),
        }
        if (prediction := record.prediction) is not None:
            notes |= {
                "price_ms": _ms(prediction.price_s),
                "cycle_ms": _ms(prediction.cycle_s),
                "bound": prediction.bound,
                "tokens_per_s": prediction.tokens_per_s,
            }
        name = f"plan: gammas {' | '.join(map(_gammas, record.batches)) or 'none'}"
        if record.plain:
            name += f", {len(record.plain)} plain"
        track = coordinator_track(target, "plan in force")
        self._spans.append(Span(track, name, record.at_s, self._last_s, notes))

    def _draft(self, record: DraftRecord) -> None:
        round_key = record.target, record.round_id
        begun = self._rounds.get(round_key)
        if begun is None:
            # It began before anybody recorded.
            return
        way_s = max(0.0, record.at_s - begun.at_s - record.draft_s)
        # Heartbeats wait for the event loop, too: a round's whole way may take less.
        back_s = record.rtt_s / 2 if record.rtt_s <= way_s else way_s / 2
        end_s = record.at_s - back_s
        start_s = max(begun.at_s, end_s - record.draft_s)
        notes: dict[str, Any] = {"draft_ms": _ms(record.draft_s)}
        if record.num_ready or record.num_wasted:
            notes |= {"drafted_ahead": record.num_ready, "ahead_wasted": record.num_wasted}
        kind = "trial" if isinstance(begun, TrialRecord) else "round"
        name = f"{kind} {record.round_id}"
        rounds: tuple[Round, ...] = ()
        link_notes: dict[str, Any] = {}
        if isinstance(begun, RoundRecord):
            rounds = (round_key,)
            part = next((node for node in begun.nodes if node.node == record.node), None)
            if part is not None:
                predicted_s = record.predicted_s or part.draft_s
                notes |= {"predicted_ms": _ms(predicted_s), "streams": list(part.stream_ids)}
                link_notes = {"link_ms": _ms(way_s), "predicted_ms": _ms(part.link_s)}
        process = f"draft node {record.node}"
        draft, link = Track(process, "draft"), Track(process, f"link to {record.node}")
        self._spans += [
            Span(link, f"{name}: request", begun.at_s, start_s, link_notes),
            Span(draft, name, start_s, end_s, notes, rounds=rounds),
            Span(link, f"{name}: answer", end_s, record.at_s, link_notes),
        ]

    def _pass(self, record: PassRecord) -> None:
        num_tokens = sum(stream.num_draft_tokens + 1 for stream in record.streams)
        round_ids = sorted({stream.round_id for stream in record.streams} - {0})
        notes = {
            "pass_ms": _ms(record.pass_s),
            "predicted_ms": _ms(record.predicted_s),
            "streams": [stream.stream_id for stream in record.streams],
            "on_lease": sum(stream.round_id == 0 for stream in record.streams),
            "committed": sum(stream.num_tokens for stream in record.streams),
            "guesses": sum(stream.num_draft_tokens for stream in record.streams),
            "accepted": sum(stream.num_accepted_tokens for stream in record.streams),
            "prompt_tokens": record.num_read,
        }
        rounds = tuple((record.target, round_id) for round_id in round_ids)
        # Passes follow one another, and what they were asked for.
        earliest_s = max(
            self._pass_ends.get(record.target, 0.0),
            *(self._verified_at.get(round_key, 0.0) for round_key in rounds),
            0.0,
        )
        start_s = max(record.at_s - record.rtt_s / 2 - record.pass_s, earliest_s)
        end_s = self._pass_ends[record.target] = max(
            start_s, min(record.at_s, start_s + record.pass_s)
        )
        track = Track(f"target {record.target}", "pass")
        name = f"{num_tokens + record.num_read} tokens"
        self._spans.append(Span(track, name, start_s, end_s, notes, rounds=rounds))

    def _lap(self, record: LapRecord) -> None:
        round_key = record.target, record.round_id
        begun, verified_at = self._rounds.pop(round_key, None), self._verified_at.pop(round_key, 0)
        if not isinstance(begun, RoundRecord):
            return
        thread = f"batch {begun.batch}" if begun.batch else "batches of older plans"
        track = coordinator_track(record.target, thread)
        parts: tuple[Span, ...] = ()
        if begun.at_s <= verified_at <= record.at_s:
            parts = (
                Span(track, "draft", begun.at_s, verified_at),
                Span(track, "verify", verified_at, record.at_s),
            )
        notes = {
            "lap_ms": _ms(record.lap_s),
            "predicted_ms": _ms(record.predicted_s),
            "gammas": {stream.stream_id: stream.gamma for stream in begun.streams},
            "stops": {stream.stream_id: stream.stop for stream in begun.streams if stream.stop},
        }
        name = f"round {record.round_id}"
        self._spans.append(
            Span(track, name, begun.at_s, record.at_s, notes, parts, rounds=(round_key,))
        )


def _gammas(batch: Batch) -> str:
    return " ".join(map(str, batch.gammas))


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
