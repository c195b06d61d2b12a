"""The history of each request, and the check for events that a client must never see."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from bench.harness.cases import Case, Expected
from bench.harness.report import Findings, counts, spread
from nodes.client.client import Event
from nodes.messages import FinishedNotice, StartedNotice, StreamFigures, TokensNotice

# A request may end this long after its deadline.
GRACE_S = 1.0
_MOST_REASONS: Final = 5
# Beginnings of the error texts by which nodes.client.client rejects inconsistent messages.
_UNBELIEVED = ("the request cannot continue", "the answer is not complete")


@dataclass(frozen=True, slots=True)
class Seen:
    """One event. what: started, tokens or finished. num_tokens: the count in FinishedNotice."""

    at_s: float
    what: str
    choice: int = 0
    position: int = 0
    token_ids: tuple[int, ...] = ()
    text: bytes = b""
    num_tokens: int = 0
    reason: str = ""


@dataclass(slots=True)
class Record:
    """One request. end: finished, failed (see code and reason) or late; "" while it runs.

    has_token_ids: False for an answer over HTTP, of which only texts and reasons are judged.
    figures: of the last choice that finished.
    """

    number: int
    case: Case
    asked_at_s: float
    deadline_s: float | None
    events: list[Seen] = field(default_factory=list)
    end: str = ""
    code: str = ""
    reason: str = ""
    ended_at_s: float = 0.0
    has_token_ids: bool = True
    figures: StreamFigures | None = None

    def see(self, event: Event, at_s: float) -> None:
        """Append an event that the client received."""
        match event:
            case StartedNotice():
                self.events.append(Seen(at_s, "started"))
            case TokensNotice(choice=choice, position=position, token_ids=ids, text=text):
                self.events.append(Seen(at_s, "tokens", choice, position, ids, text))
            case FinishedNotice(choice=choice, num_tokens=count, finish_reason=reason):
                self.figures = event.figures
                self.events.append(Seen(at_s, "finished", choice, num_tokens=count, reason=reason))

    def stalls_s(self) -> Iterator[float]:
        """Yield the longest time between two events of each choice."""
        for choice in range(self.case.options.num_choices):
            times = [e.at_s for e in self.events if e.what == "started" or e.choice == choice]
            gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
            # The parts of a whole answer come at once.
            if any(gaps):
                yield max(gaps)


def faults_of(record: Record) -> list[str]:
    """Return the faults of a request that has ended; a failure reported in time is no fault.

    Each begins with its kind: lost, repeated, changed, fake finish, no end or late.
    """
    found = _of_the_whole(record)
    for choice, expected in enumerate(record.case.expected):
        events = [e for e in record.events if e.what != "started" and e.choice == choice]
        found += _of_choice(choice, events, expected, record)
    return found


def _of_the_whole(record: Record) -> list[str]:
    found = []
    starts = [e for e in record.events if e.what == "started"]
    if len(starts) > 1:
        found.append(f"repeated: it started {len(starts)} times")
    if starts and record.events[0] is not starts[0]:
        found.append("repeated: an event came before its start")
    # A client that rejects messages as inconsistent has received wrong ones.
    if record.end == "failed" and record.reason.startswith(_UNBELIEVED):
        found.append(f"changed: {record.reason}")
    if any(e.choice >= len(record.case.expected) for e in record.events):
        found.append("changed: a choice that was not requested")
    took_s = record.ended_at_s - record.asked_at_s
    if record.deadline_s is None:
        return found
    if record.end in ("", "late"):
        found.append(f"no end: none within {record.deadline_s:g} s")
    elif took_s > record.deadline_s + GRACE_S:
        found.append(f"late: ended after {took_s:.2f} s of {record.deadline_s:g} s")
    return found


def _of_choice(
    choice: int, events: list[Seen], expected: Expected, record: Record
) -> Iterator[str]:
    length, text, is_whole = 0, b"", True
    end: Seen | None = None
    for event in events:
        where = f"choice {choice} at {event.position}"
        if end is not None:
            yield f"repeated: choice {choice}: {event.what} after its end"
            return
        if event.what == "finished":
            end = event
            continue
        if event.position != length:
            is_whole = False
            kind = "lost" if event.position > length else "repeated"
            yield f"{kind}: {where}, where {length} was next"
        wanted = expected.token_ids[event.position : event.position + len(event.token_ids)]
        if event.token_ids != wanted:
            yield f"changed: {where}: {event.token_ids} instead of {wanted}"
        length = max(length, event.position + len(event.token_ids))
        text += event.text
    if is_whole and not expected.text.startswith(text):
        yield f"changed: choice {choice}: the text differs from the undisturbed one"
    if end is not None:
        num_tokens = length if record.has_token_ids else None
        yield from _of_end(choice, num_tokens, text if is_whole else None, end, expected)
    elif record.end == "finished":
        yield f"no end: choice {choice} has no end, but its request has"


def _of_end(
    choice: int, length: int | None, text: bytes | None, end: Seen, expected: Expected
) -> Iterator[str]:
    if length is not None and length < len(expected.token_ids):
        of = f"{length} of {len(expected.token_ids)} tokens"
        yield f"fake finish: choice {choice}: {end.reason} after {of}"
    elif text is not None and text != expected.text:
        yield f"fake finish: choice {choice}: {len(text)} of {len(expected.text)} bytes"
    if length is not None and end.num_tokens != length:
        yield f"lost: choice {choice}: {length} of {end.num_tokens} tokens were received"
    if end.reason != expected.finish_reason:
        what = f"{end.reason} instead of {expected.finish_reason}"
        yield f"fake finish: choice {choice}: {what}"


def _readable(value: object) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


@dataclass(slots=True)
class Tally(Findings):
    """Counts of a run. Every request is checked when it ends; only its faults are kept.

    disturbances: counts of kills and stops, by role. stalls_s: the longest gap between events of
    each choice. waits_s: times from a request to its first event. history: file for the first wrong
    request, with its events.
    """

    seed: int = 0
    num_tokens: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    disturbances: Counter[str] = field(default_factory=Counter)
    stalls_s: list[float] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    took_s: float = 0.0
    history: Path | None = None

    @property
    def num_requests(self) -> int:
        return self.ends.total()

    def add(self, record: Record) -> None:
        """Check and count a request that has ended."""
        self.ends[record.end] += 1
        if record.end == "failed":
            self.reasons[f"{record.code}: {record.reason}"] += 1
        self.num_tokens += sum(len(event.token_ids) for event in record.events)
        self.stalls_s += record.stalls_s()
        if record.events:
            self.waits_s.append(record.events[0].at_s - record.asked_at_s)
        found = faults_of(record)
        if found and self.history is None:
            self.history = Path(f"chaos-history-{self.seed}.json")
            history = {"seed": self.seed, "faults": found, **asdict(record)}
            self.history.write_text(json.dumps(history, indent=1, default=_readable))
        self.faults += [f"{fault} (request {record.number})" for fault in found]

    def wrong(self, kind: str, text: str) -> None:
        """Add a fault of this kind."""
        self.faults.append(f"{kind}: {text}")

    def progress(self) -> str:
        """Return a few words about the run so far."""
        verdict = f"WRONG: {self.faults[0]}" if self.faults else "nothing wrong"
        return f"{self.num_requests} requests: {verdict}"

    def summary(self) -> list[str]:
        reasons = self.reasons.most_common(_MOST_REASONS)
        lines = [
            f"seed {self.seed}, {self.took_s:.0f} s: " + counts(self.disturbances, "undisturbed"),
            f"{self.num_requests} requests ({counts(self.ends)})"
            # Answers over HTTP have no token ids.
            + (f", {self.num_tokens} tokens" if self.num_tokens else ""),
            f"longest gaps between events: {spread(self.stalls_s)}; waits for the first event: "
            f"{spread(self.waits_s)}",
            *self.lines,
            *(f"failed {count} x {why}" for why, count in reasons),
        ]
        if self.history is not None:
            lines.append(f"history of the first wrong request: {self.history}")
        return lines
