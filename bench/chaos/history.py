"""What was asked, every event in its order, how it ended; and what of that must not be."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.chaos.cases import Case, Expected
from nodes.client.client import Event
from nodes.messages import FinishedNotice, StartedNotice, TokensNotice

# How much after its deadline a request may end.
GRACE_S = 1.0
# How reasons of nodes.client.client begin that are about what it was told.
_UNBELIEVED = ("the request cannot go on", "the answer is not whole")


@dataclass(frozen=True, slots=True)
class Seen:
    """One event. what: started, tokens or finished. num_tokens: what a Finished says."""

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
    """One request. end: finished, failed (code and reason say how), or late; "" while it runs."""

    number: int
    case: Case
    asked_at_s: float
    deadline_s: float
    events: list[Seen] = field(default_factory=list)
    end: str = ""
    code: str = ""
    reason: str = ""
    ended_at_s: float = 0.0

    def see(self, event: Event, at_s: float) -> None:
        match event:
            case StartedNotice():
                self.events.append(Seen(at_s, "started"))
            case TokensNotice(choice=choice, position=position, token_ids=ids, text=text):
                self.events.append(Seen(at_s, "tokens", choice, position, ids, text))
            case FinishedNotice(choice=choice, num_tokens=count, finish_reason=reason):
                finished = Seen(at_s, "finished", choice, num_tokens=count, reason=reason)
                self.events.append(finished)

    def stalls_s(self) -> Iterator[float]:
        """The longest time between two events of each choice."""
        for choice in range(self.case.options.num_choices):
            times = [e.at_s for e in self.events if e.what == "started" or e.choice == choice]
            gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
            if gaps:
                yield max(gaps)


@dataclass(frozen=True, slots=True)
class Fault:
    """kind: lost, repeated, changed, fake finish, no end or late."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def faults_of(record: Record) -> list[Fault]:
    """What a client must never see; none for a request that failed with an error in time."""
    found = _of_the_whole(record)
    for choice, expected in enumerate(record.case.expected):
        events = [e for e in record.events if e.what != "started" and e.choice == choice]
        found += _of_choice(choice, events, expected, has_ended=record.end == "finished")
    return found


def _of_the_whole(record: Record) -> list[Fault]:
    found = []
    starts = [e for e in record.events if e.what == "started"]
    if len(starts) > 1:
        found.append(Fault("repeated", f"it started {len(starts)} times"))
    if starts and record.events[0] is not starts[0]:
        found.append(Fault("repeated", "there was something before its start"))
    # A client that will not believe an answer has seen a wrong one.
    if record.end == "failed" and record.reason.startswith(_UNBELIEVED):
        found.append(Fault("changed", record.reason))
    if any(e.choice >= len(record.case.expected) for e in record.events):
        found.append(Fault("changed", "a choice that was not asked for"))
    took_s = record.ended_at_s - record.asked_at_s
    if record.end in ("", "late"):
        found.append(Fault("no end", f"none within {record.deadline_s:g} s"))
    elif took_s > record.deadline_s + GRACE_S:
        found.append(Fault("late", f"ended after {took_s:.2f} s of {record.deadline_s:g} s"))
    return found


def _of_choice(
    choice: int, events: list[Seen], expected: Expected, *, has_ended: bool
) -> Iterator[Fault]:
    length, text, is_whole = 0, b"", True
    end: Seen | None = None
    for event in events:
        where = f"choice {choice} at {event.position}"
        if end is not None:
            yield Fault("repeated", f"choice {choice}: {event.what} after its end")
            return
        if event.what == "finished":
            end = event
            continue
        if event.position != length:
            is_whole = False
            kind = "lost" if event.position > length else "repeated"
            yield Fault(kind, f"{where}, where {length} was next")
        wanted = expected.token_ids[event.position : event.position + len(event.token_ids)]
        if event.token_ids != wanted:
            yield Fault("changed", f"{where}: {event.token_ids} instead of {wanted}")
        length = max(length, event.position + len(event.token_ids))
        text += event.text
    if is_whole and not expected.text.startswith(text):
        yield Fault("changed", f"choice {choice}: another text")
    if end is not None:
        yield from _of_end(choice, length, text if is_whole else None, end, expected)
    elif has_ended:
        yield Fault("no end", f"choice {choice} has none, its request has")


def _of_end(
    choice: int, length: int, text: bytes | None, end: Seen, expected: Expected
) -> Iterator[Fault]:
    if length < len(expected.token_ids):
        of = f"{length} of {len(expected.token_ids)} tokens"
        yield Fault("fake finish", f"choice {choice}: {end.reason} after {of}")
    elif text is not None and text != expected.text:
        yield Fault("fake finish", f"choice {choice}: {len(text)} of {len(expected.text)} bytes")
    if end.num_tokens != length:
        yield Fault("lost", f"choice {choice}: {length} came, {end.num_tokens} were made")
    if end.reason != expected.finish_reason:
        what = f"{end.reason} instead of {expected.finish_reason}"
        yield Fault("fake finish", f"choice {choice}: {what}")


def write_history(path: Path, seed: int, record: Record, faults: list[Fault]) -> None:
    """As JSON, for whoever looks for the cause."""
    found = {
        "seed": seed,
        "faults": [str(fault) for fault in faults],
        "number": record.number,
        "options": str(record.case.options),
        "prompt": record.case.prompt,
        "expected": [_fields(expected) for expected in record.case.expected],
        "asked_at_s": record.asked_at_s,
        "deadline_s": record.deadline_s,
        "events": [_fields(event) for event in record.events],
        "end": [record.end, record.code, record.reason],
        "ended_at_s": record.ended_at_s,
    }
    path.write_text(json.dumps(found, indent=1))


def _fields(item: Any) -> dict[str, Any]:
    values = {name: getattr(item, name) for name in item.__slots__}
    return {k: v.decode("latin1") if isinstance(v, bytes) else v for k, v in values.items()}
