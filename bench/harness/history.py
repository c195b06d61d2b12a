"""The history of each request, and the check for events that a client must never see."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from airdraft.nodes.client.client import Event
from airdraft.nodes.messages import FinishedNotice, StartedNotice, StreamFigures, TokensNotice
from bench.harness.cases import Case, Expected
from bench.harness.report import Findings, counts, spread

# A request may end this long after its deadline.
GRACE_S = 1.0
_MOST_REASONS: Final = 5
# Beginnings of the error texts by which nodes.client.client rejects inconsistent messages.
_UNBELIEVED = ("the request cannot continue", "the answer is not complete")


@dataclass(frozen=True, slots=True)
class ClientEvent:
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
    events: list[ClientEvent] = field(default_factory=list)
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
                self.events.append(ClientEvent(at_s, "started"))
            case TokensNotice(choice=choice, position=position, token_ids=ids, text=text):
                self.events.append(ClientEvent(at_s, "tokens", choice, position, ids, text))
            case FinishedNotice(choice=choice, num_tokens=count, finish_reason=reason):
                self.figures = event.figures
                self.events.append(
                    ClientEvent(at_s, "finished", choice, num_tokens=count, reason=reason)
                )

    def begin_again(self) -> None:
        """Drop the events, because the answer comes from its beginning again. Wrong ones stay, so
        that they are a fault at the end."""
        if not any(_choice_faults(self)):
            self.events.clear()

    def stalls_s(self) -> Iterator[float]:
        """Yield the longest time between two events of each choice."""
        for choice in range(self.case.options.num_choices):
            times = [e.at_s for e in self.events if e.what == "started" or e.choice == choice]
            gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
            # The parts of a whole answer come at once.
            if any(gaps):
                yield max(gaps)


def faults_of(record: Record) -> list[str]:
    """Returns the faults of a request that has ended; a failure reported in time is no fault.

    Each begins with its kind: wrong order, wrong tokens, wrong text, wrong end, no end or late. Of
    a choice the first one is returned.
    """
    found, events, expected = list[str](), record.events, record.case.expected
    if any(event.what == "started" for event in events[1:]):
        found.append("wrong order: a start after another event")
    # A client that rejects messages as inconsistent has received wrong ones.
    if record.end == "failed" and record.reason.startswith(_UNBELIEVED):
        found.append(f"wrong tokens: {record.reason}")
    if any(event.choice >= len(expected) for event in events):
        found.append("wrong tokens: a choice that was not requested")
    if record.deadline_s is not None:
        took_s = record.ended_at_s - record.asked_at_s
        if record.end in ("", "late"):
            found.append(f"no end: none within {record.deadline_s:g} s")
        elif took_s > record.deadline_s + GRACE_S:
            found.append(f"late: ended after {took_s:.2f} s of {record.deadline_s:g} s")
    return [*found, *_choice_faults(record)]


def _choice_faults(record: Record) -> Iterator[str]:
    for choice, undisturbed in enumerate(record.case.expected):
        own = [e for e in record.events if e.what != "started" and e.choice == choice]
        if fault := _of_choice(own, undisturbed, record):
            yield f"{fault}, choice {choice}"


def _of_choice(events: list[ClientEvent], expected: Expected, record: Record) -> str:
    """Returns the first fault of a choice, or "" if there is none."""
    num_tokens, text = 0, b""
    for event in events:
        wanted = expected.token_ids[num_tokens : num_tokens + len(event.token_ids)]
        if event.what == "finished":
            break
        if (event.position, event.token_ids) != (num_tokens, wanted):
            got = f"{event.token_ids} at {event.position}"
            return f"wrong tokens: {got}, where {wanted} at {num_tokens} were next"
        num_tokens += len(event.token_ids)
        text += event.text
    else:
        if not expected.text.startswith(text):
            return "wrong text: it differs from the undisturbed one"
        return "no end: none, but its request has one" if record.end == "finished" else ""
    if event is not events[-1]:
        return "wrong order: an event after the end"
    most = len(expected.token_ids)
    counts_differ = record.has_token_ids and not num_tokens == event.num_tokens == most
    if counts_differ or (event.reason, text) != (expected.finish_reason, expected.text):
        return (
            f"wrong end: {event.reason} after {num_tokens} of {most} tokens (it says "
            f"{event.num_tokens}) and {len(text)} of {len(expected.text)} bytes"
        )
    return ""


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
        """Returns a few words about the run so far."""
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
