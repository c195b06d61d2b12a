"""Writes a trace in Chrome's JSON format for Perfetto (ui.perfetto.dev) and chrome://tracing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from nodes.telemetry.trace.records import PassRecord, Record
from nodes.telemetry.trace.spans import Span, Track, coordinator_track, spans_of

_COUNTER_S: Final = 0.25
_ABOUT: Final = (
    "All times are the coordinator's. A node's work is placed before its answer by half of the "
    "round trip that heartbeats measure: an estimated offset. Passes last as long as nodes report, "
    "where that fits between two reports."
)

Event = dict[str, Any]


def chrome_trace(records: Sequence[Record]) -> dict[str, Any]:
    """Return a trace with counters, and tracks of passes, guesses, plans and followed streams."""
    spans = spans_of(records)
    origin_s = min((span.start_s for span in spans), default=0.0)
    drawing = _Drawing(origin_s)
    # Of spans that begin together the longest comes first, so that the others are drawn inside it.
    for span in sorted(spans, key=lambda span: (span.start_s, -span.end_s)):
        drawing.add(span)
    events = list(drawing.events)
    for target in dict.fromkeys(record.target for record in records):
        passes = [r for r in records if isinstance(r, PassRecord) and r.target == target]
        events += drawing.counters(target, passes)
    events = drawing.names() + events
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"about": _ABOUT}}


class _Drawing:
    """Numbers tracks, and puts spans of one track that overlap on separate lanes."""

    def __init__(self, origin_s: float) -> None:
        self.events: list[Event] = []
        self._origin_s = origin_s
        self._processes: dict[str, int] = {}
        self._threads: dict[tuple[str, str], int] = {}
        self._lane_ends: dict[Track, list[float]] = {}

    def add(self, span: Span) -> None:
        place = self._lane(span)
        event = {"name": span.name, "cat": "airdraft", "ts": self._us(span.start_s), **place}
        if span.end_s > span.start_s:
            event |= {"ph": "X", "dur": self._us(span.end_s) - event["ts"]}
        else:
            event |= {"ph": "i", "s": "t"}
        if span.notes:
            event["args"] = dict(span.notes)
        self.events.append(event)

    def _us(self, at_s: float) -> int:
        # Rounded to whole microseconds, so that adjacent spans stay adjacent in the file.
        return max(0, round((at_s - self._origin_s) * 1e6))

    def _lane(self, span: Span) -> Event:
        ends = self._lane_ends.setdefault(span.track, [])
        if span.end_s <= span.start_s:
            # A moment has no length and overlaps with no span.
            return self._place(span.track.process, span.track.thread)
        lane = next((k for k, end_s in enumerate(ends) if end_s <= span.start_s), len(ends))
        if lane == len(ends):
            ends.append(span.end_s)
        else:
            ends[lane] = span.end_s
        thread = span.track.thread if lane == 0 else f"{span.track.thread} ({lane + 1})"
        return self._place(span.track.process, thread)

    def _place(self, process: str, thread: str) -> Event:
        pid = self._processes.setdefault(process, len(self._processes) + 1)
        tid = self._threads.setdefault((process, thread), len(self._threads) + 1)
        return {"pid": pid, "tid": tid}

    def names(self) -> list[Event]:
        """Return the names of tracks, ordered: the coordinator, draft nodes, the target."""
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

    def counters(self, target: str, passes: Iterable[PassRecord]) -> list[Event]:
        """Return counters of tokens a second and of the acceptance rate, in steps of 0.25 s."""
        sums: dict[int, tuple[int, int, int]] = {}
        for record in passes:
            step = int((record.at_s - self._origin_s) / _COUNTER_S)
            tokens, guesses, accepted = sums.get(step, (0, 0, 0))
            for stream in record.streams:
                tokens += stream.num_tokens
                guesses += stream.num_draft_tokens
                accepted += stream.num_accepted_tokens
            sums[step] = tokens, guesses, accepted
        if not sums:
            return []
        place = self._place(coordinator_track(target, "").process, "plan in force")
        events: list[Event] = []
        for step in range(min(sums), max(sums) + 2):
            tokens, guesses, accepted = sums.get(step, (0, 0, 0))
            common = {"ph": "C", "ts": round(step * _COUNTER_S * 1e6), **place}
            rate = {"tokens/s": tokens / _COUNTER_S}
            events.append({"name": "tokens/s", "args": rate, **common})
            if guesses:
                share = {"acceptance": accepted / guesses}
                events.append({"name": "acceptance", "args": share, **common})
        return events
