"""The clients of one place: a process whose streams print what they receive, and its reader.

    python -m bench.chaos.links.clients ENDPOINT KEYS NUM_STREAMS FIRST_TEXT

All tokens are compared with the recording, which is the undisturbed run.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.emulate.recording import Recording, read_recording
from bench.harness.cases import Case, Expected
from bench.harness.history import Record, faults_of
from bench.harness.report import quantiles
from bench.harness.work import ask
from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions
from nodes.keys.keyring import Keyring

EMULATED: Final = Path(__file__).parents[2] / "emulate"
RECORDING: Final = EMULATED / "recordings" / "smollm2-135m.json.z"
_RETRY_S = 0.2


@dataclass(slots=True)
class Heard:
    """What the streams of a place have received. Times are on the machine's monotonic clock.

    num_texts: complete texts. num_wrong: texts, complete or not, with a token that is changed,
    missing or repeated. failures: counts of requests that ended with an error, by its text.

    gaps_s: for two successive notices with tokens of one text (or of a failed text and the next):
    time of the later notice, seconds since the earlier one, and tokens of prompt and text until
    then. tokens_at: times at which tokens came, and how many. waits_s: for each stream, the seconds
    since its last event or error.
    """

    num_texts: int = 0
    num_wrong: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    gaps_s: list[tuple[float, float, int]] = field(default_factory=list)
    tokens_at: list[tuple[float, int]] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return sum(count for _, count in self.tokens_at)

    def faults(self) -> list[str]:
        """Return faults that no link excuses: wrong texts and failed requests."""
        found = [f"{self.num_wrong} wrong texts"] if self.num_wrong else []
        return found + ([f"requests failed: {dict(self.failures)}"] if self.failures else [])

    def between_ms(self) -> str:
        """Return quantiles of the milliseconds between two notices, for a row of a table."""
        return " ".join(f"{s * 1e3:.0f}" for s in quantiles([gap_s for _, gap_s, _ in self.gaps_s]))


def counted(heard: Sequence[Heard]) -> str:
    """Return how many texts were wrong, complete and failed, for a row of a table."""
    wrong, whole = (sum(n) for n in zip(*((h.num_wrong, h.num_texts) for h in heard), strict=True))
    return f"{wrong}, {whole}, {sum(each.failures.total() for each in heard)}"


class Hearing:
    """Reads the lines that streams have printed.

    path: file in which they are. now: returns the time on the clock of the lines.
    """

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self._path = path
        self._now = now
        self._num_read = 0
        self._last_at: dict[int, float] = {}
        # Time of the last tokens of the present text, or of the one before if that failed.
        self._tokens_at: dict[int, float] = {}

    def heard(self) -> Heard:
        """Return what was received since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._num_read)
            whole, end, _ = file.read().rpartition(b"\n")
        self._num_read += len(whole + end)
        heard = Heard()
        for line in whole.splitlines():
            # Warnings about lost coordinators are there, too.
            if line.startswith(b"{"):
                self._take(json.loads(line), heard)
        now = self._now()
        heard.waits_s = [now - at for at in self._last_at.values()]
        return heard

    def _take(self, line: dict[str, Any], heard: Heard) -> None:
        stream, at = line["stream"], line["at"]
        self._last_at[stream] = at
        if count := line.get("tokens"):
            heard.tokens_at.append((at, count))
            if (before := self._tokens_at.get(stream)) is not None:
                heard.gaps_s.append((at, at - before, line["length"]))
            self._tokens_at[stream] = at
        elif "end" in line:
            heard.num_wrong += line["is_wrong"]
            if line["end"] == "finished":
                heard.num_texts += 1
                self._tokens_at.pop(stream, None)
            else:
                heard.failures[line["reason"]] += 1


def cases_of(recording: Recording) -> list[Case]:
    """Return the recorded texts as requests."""
    cases = []
    for text in recording.texts:
        whole = b"".join(recording.pieces[token_id] for token_id in text.output_ids)
        options = GenerateOptions(max_tokens=len(text.output_ids), ignore_eog=True)
        cases.append(Case(text.prompt_ids, options, (Expected(text.output_ids, whole, "length"),)))
    return cases


async def stream(client: Client, cases: list[Case], first: int, step: int) -> None:
    """Request every step-th text from `first` on, for ever, and print what comes."""

    def say(at: float, **fields: Any) -> None:
        print(json.dumps({"stream": first, "at": at, **fields}), flush=True)

    def seen(record: Record) -> None:
        event = record.events[-1]
        length = len(record.case.prompt) + event.position
        say(event.at_s, tokens=len(event.token_ids), length=length)

    turn = first
    say(asyncio.get_running_loop().time())
    while True:
        record = await ask(client, turn, cases[turn % len(cases)], None, seen)
        is_wrong = bool(faults_of(record))
        say(record.ended_at_s, end=record.end, reason=record.reason, is_wrong=is_wrong)
        turn += step
        if record.end != "finished":
            await asyncio.sleep(_RETRY_S)


async def run(endpoint: str, keys: str, num_streams: int, first: int) -> None:
    cases = cases_of(read_recording(RECORDING))
    own = Keyring(Path(keys)).client_keys(endpoint)
    with ZmqContext() as context:
        transport = context.connect(endpoint, own)
        client = Client(transport, endpoint=endpoint, join_timeout_s=None, rejoins=True)
        async with client.running():
            await client.nodes()
            async with asyncio.TaskGroup() as group:
                for number in range(num_streams):
                    group.create_task(stream(client, cases, first + number, num_streams))


if __name__ == "__main__":
    endpoint_, keys_, num_streams_, first_ = sys.argv[1:]
    asyncio.run(run(endpoint_, keys_, int(num_streams_), int(first_)))
