"""Writes a trace in Chrome's JSON format for Perfetto (ui.perfetto.dev) and chrome://tracing.

All times are the coordinator's. The work of a node is placed before its answer by half the round
trip of its link, but between the end of its previous pass and the arrival of its report. The place
is an estimate. The length is the time that the node reports, as far as it fits there.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from airdraft.nodes.telemetry.trace.records import (
    FollowRecord,
    GuessRecord,
    PassRecord,
    PlanRecord,
    Record,
)
from airdraft.policies.plan import Batch

_COUNTER_S: Final = 0.25
_ABOUT: Final = (
    "All times are the coordinator's. A node's work is placed before its answer by half of the "
    "round trip that heartbeats measure: an estimated offset. Passes last as long as nodes report, "
    "where that fits between two reports."
)

Event = dict[str, Any]


def chrome_trace(records: Sequence[Record]) -> dict[str, Any]:
    """Returns a trace with counters, and tracks of passes, guesses, plans and followed streams.

    records: In the order in which they were made.
    """
    drawing = _Drawing()
    for record in records:
        drawing.add(record)
    drawing.end()
    events = sorted(drawing.events, key=lambda event: event["ts"])
    for target in dict.fromkeys(record.target for record in records):
        passes = [r for r in records if isinstance(r, PassRecord) and r.target == target]
        events += drawing.counters(target, passes)
    # Rounded to whole microseconds, so that adjacent spans stay adjacent in the file.
    for event in events:
        end_s = event["ts"] + event.pop("dur", 0.0)
        event["ts"] = drawing.us(event["ts"])
        if event["ph"] == "X":
            event["dur"] = drawing.us(end_s) - event["ts"]
    return {
        "traceEvents": drawing.names() + events,
        "displayTimeUnit": "ms",
        "otherData": {"about": _ABOUT},
    }


class _Drawing:
    """Turns records into events, whose times are in seconds at first, and numbers their tracks."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._origin_s = math.inf
        self._processes: dict[str, int] = {}
        self._threads: dict[tuple[str, str], int] = {}
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
            case GuessRecord(at_s=at_s):
                notes = {"streams": record.num_streams, "for": record.target}
                place = self._place(f"draft node {record.node}", "guesses")
                self._span(place, f"{record.num_tokens} guesses", at_s, at_s, notes)
            case PassRecord():
                self._pass(record)

    def end(self) -> None:
        """Draw what lasts until the end of the records."""
        for target in list(self._plans):
            self._end_plan(target)
        for target, stream_id in list(self._following):
            self._end_following(target, stream_id, "")

    def us(self, at_s: float) -> int:
        return max(0, round((at_s - self._origin_s) * 1e6))

    def _place(self, process: str, thread: str) -> Event:
        """Returns the numbers of a track: a line of the drawing, in a group."""
        pid = self._processes.setdefault(process, len(self._processes) + 1)
        tid = self._threads.setdefault((process, thread), len(self._threads) + 1)
        return {"pid": pid, "tid": tid}

    def _of_coordinator(self, target: str, thread: str) -> Event:
        return self._place(f"coordinator, for {target}", thread)

    def _span(
        self, place: Event, name: str, start_s: float, end_s: float, notes: Mapping[str, Any]
    ) -> None:
        """Draw a span of time, or a moment if start and end are equal. Spans of a track do not
        overlap."""
        self._origin_s = min(self._origin_s, start_s)
        event = {"name": name, "cat": "airdraft", "ts": start_s, **place}
        if end_s > start_s:
            event |= {"ph": "X", "dur": end_s - start_s}
        else:
            event |= {"ph": "i", "s": "t"}
        if notes:
            event["args"] = dict(notes)
        self.events.append(event)

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
        place = self._of_coordinator(target, "plan in force")
        self._span(place, name, record.at_s, self._last_s, notes)

    def _end_following(self, target: str, stream_id: int, reason: str) -> None:
        record = self._following.pop((target, stream_id), None)
        if record is None:
            return
        place = self._of_coordinator(target, f"stream {stream_id}")
        notes = {"until": reason} if reason else {}
        self._span(place, f"followed by {record.node}", record.at_s, self._last_s, notes)

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
            "in_turns": sum(stream.num_in_turns for stream in streams),
            "turn_ms": _ms(record.turn_s),
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
        place = self._place(f"target {record.target}", "pass")
        self._span(place, f"{num_tokens + record.num_read} tokens", start_s, end_s, notes)

    def names(self) -> list[Event]:
        """Returns the names of tracks, ordered: the coordinator, draft nodes, the target."""
        order = sorted(self._processes)
        events: list[Event] = []
        for process, pid in self._processes.items():
            common = {"ph": "M", "ts": 0, "pid": pid, "tid": 0}
            sort_index = {"sort_index": order.index(process)}
            events.append({"name": "process_name", "args": {"name": process}, **common})
            events.append({"name": "process_sort_index", "args": sort_index, **common})
        for (process, thread), tid in self._threads.items():
            common = {"ph": "M", "ts": 0, "pid": self._processes[process], "tid": tid}
            events.append({"name": "thread_name", "args": {"name": thread}, **common})
        return events

    def counters(self, target: str, passes: Sequence[PassRecord]) -> list[Event]:
        """Returns counters of tokens a second and of the acceptance rate, in steps of 0.25 s."""
        sums: dict[int, Counter[str]] = defaultdict(Counter)
        for record in passes:
            step = int((record.at_s - self._origin_s) / _COUNTER_S)
            for stream in record.streams:
                sums[step].update(
                    tokens=stream.num_tokens,
                    guesses=stream.num_draft_tokens,
                    accepted=stream.num_accepted_tokens,
                )
        events: list[Event] = []
        for step in range(min(sums), max(sums) + 2) if sums else ():
            place = self._of_coordinator(target, "plan in force")
            common = {"ph": "C", "ts": self._origin_s + step * _COUNTER_S, **place}
            rate = {"tokens/s": sums[step]["tokens"] / _COUNTER_S}
            events.append({"name": "tokens/s", "args": rate, **common})
            if guesses := sums[step]["guesses"]:
                share = {"acceptance": sums[step]["accepted"] / guesses}
                events.append({"name": "acceptance", "args": share, **common})
        return events


def _gammas(batch: Batch) -> str:
    return " ".join(map(str, batch.gammas))


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
