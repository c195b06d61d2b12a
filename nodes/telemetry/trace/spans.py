"""Converts records to spans of time on tracks.

All times are the coordinator's. The work of a node is placed before its answer by half the round
trip of its link, but between the end of its previous pass and the arrival of its report. The place
is an estimate. The length is the time that the node reports, as far as it fits there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nodes.telemetry.trace.records import FollowRecord, GuessRecord, PassRecord, PlanRecord, Record
from policies.plan import Batch


@dataclass(frozen=True, slots=True)
class Track:
    """A line of the drawing, `thread`, in the group `process`."""

    process: str
    thread: str


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time on a track; a moment if start and end are equal."""

    track: Track
    name: str
    start_s: float
    end_s: float
    notes: Mapping[str, Any] = field(default_factory=dict)


def coordinator_track(target: str, thread: str) -> Track:
    return Track(f"coordinator, for {target}", thread)


def spans_of(records: Iterable[Record]) -> list[Span]:
    """Return the spans of records, which must be in the order in which they were made."""
    builder = _Builder()
    for record in records:
        builder.add(record)
    return builder.finished()


class _Builder:
    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._plans: dict[str, PlanRecord] = {}
        # The current follower of each stream of a target, with the time since when.
        self._following: dict[tuple[str, int], FollowRecord] = {}
        self._pass_ends: dict[str, float] = {}
        self._last_s = 0.0

    def add(self, record: Record) -> None:
        self._last_s = record.at_s
        match record:
            case PlanRecord(target=target):
                self._end_plan(target)
                self._plans[target] = record
            case FollowRecord(target=target, stream_id=stream_id):
                self._end_following(target, stream_id, record.reason)
                if record.node:
                    self._following[target, stream_id] = record
            case GuessRecord():
                notes = {"streams": record.num_streams, "for": record.target}
                track = Track(f"draft node {record.node}", "guesses")
                name = f"{record.num_tokens} guesses"
                self._spans.append(Span(track, name, record.at_s, record.at_s, notes))
            case PassRecord():
                self._pass(record)

    def finished(self) -> list[Span]:
        for target in list(self._plans):
            self._end_plan(target)
        for target, stream_id in list(self._following):
            self._end_following(target, stream_id, "")
        return self._spans

    def _end_plan(self, target: str) -> None:
        record = self._plans.pop(target, None)
        if record is None:
            return
        notes: dict[str, Any] = {
            "policy": record.policy,
            "in_force": "groups" if record.is_grouped else "open flow",
            "groups": [dict(zip(b.stream_ids, b.gammas, strict=True)) for b in record.batches],
            "plain": list(record.plain),
            "open_price_ms": _ms(record.open_price_s),
        }
        if (prediction := record.prediction) is not None:
            notes |= {
                "groups_price_ms": _ms(prediction.price_s),
                "bound": prediction.bound,
                "tokens_per_s": prediction.tokens_per_s,
            }
        name = "open flow"
        if record.is_grouped:
            name = f"groups: {' | '.join(map(_gammas, record.batches)) or 'none'}"
        track = coordinator_track(target, "plan in force")
        self._spans.append(Span(track, name, record.at_s, self._last_s, notes))

    def _end_following(self, target: str, stream_id: int, reason: str) -> None:
        record = self._following.pop((target, stream_id), None)
        if record is None:
            return
        track = coordinator_track(target, f"stream {stream_id}")
        name = f"followed by {record.node}"
        notes = {"until": reason} if reason else {}
        self._spans.append(Span(track, name, record.at_s, self._last_s, notes))

    def _pass(self, record: PassRecord) -> None:
        streams = record.streams
        num_tokens = sum(stream.num_draft_tokens + 1 for stream in streams)
        notes = {
            "pass_ms": _ms(record.pass_s),
            "predicted_ms": _ms(record.predicted_s),
            "streams": [stream.stream_id for stream in streams],
            "committed": sum(stream.num_tokens for stream in streams),
            "guesses": sum(stream.num_draft_tokens for stream in streams),
            "accepted": sum(stream.num_accepted_tokens for stream in streams),
            "looked_up": sum(stream.num_looked_up for stream in streams),
            "offered": sum(stream.num_offered for stream in streams),
            "late": sum(stream.num_late for stream in streams),
            "best_chances": {s.stream_id: s.best_percent / 100 for s in streams if s.best_percent},
            "prompt_tokens": record.num_read,
        }
        # Passes of one target do not overlap.
        earliest_s = self._pass_ends.get(record.target, 0.0)
        start_s = max(record.at_s - record.rtt_s / 2 - record.pass_s, earliest_s)
        end_s = max(start_s, min(record.at_s, start_s + record.pass_s))
        self._pass_ends[record.target] = end_s
        track = Track(f"target {record.target}", "pass")
        name = f"{num_tokens + record.num_read} tokens"
        self._spans.append(Span(track, name, start_s, end_s, notes))


def _gammas(batch: Batch) -> str:
    return " ".join(map(str, batch.gammas))


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
