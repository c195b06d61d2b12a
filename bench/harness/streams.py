"""The clients of one place: a process whose streams print what they receive, and its reader.

    python -m bench.harness.streams ENDPOINT KEYS TASK

Streams request recorded texts in a closed loop. All tokens are compared with the recording, which
is the undisturbed run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from bench.asking import Taken
from bench.emulate.recording import RecordedText, Recording, read_recording
from bench.harness.cases import Case, Expected
from bench.harness.fleet import Fleet
from bench.harness.history import Record, faults_of
from bench.harness.report import quantiles
from bench.harness.work import ask
from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client, RequestFailedError
from nodes.client.generation import GenerateOptions
from nodes.keys.keyring import Keyring
from nodes.messages import StreamFigures

EMULATED: Final = Path(__file__).parents[1] / "emulate"
RECORDING: Final = EMULATED / "recordings" / "smollm2-135m.json.z"
_RETRY_S = 0.2
# A coordinator repeats its last status for half a second.
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the streams of a place request. texts: indices of recorded texts, used in turns; () for
    all. first: index of the first stream's first text.

    is_staggered: the first text of each of n streams is cut to 1/n, 2/n, ... of its tokens.
    Otherwise streams end together in waves, and a short run measures an arbitrary part of one.
    """

    num_streams: int
    first: int = 0
    texts: tuple[int, ...] = ()
    is_staggered: bool = False


@dataclass(slots=True)
class Heard:
    """What the streams of a place have received. Times are on the machine's monotonic clock.

    seconds: time in which it was received. num_texts: complete texts. num_wrong: texts, complete or
    not, with a token that is changed, missing or repeated. failures: counts of requests that ended
    with an error, by its text.

    gaps_s: for two successive notices with tokens of one text (or of a failed text and the next):
    time of the later notice, seconds since the earlier one, and tokens of prompt and text until
    then. tokens_of: numbers of tokens by stream. most_at_once: most tokens of a notice. waits_s:
    for each stream, the seconds since its last event or error.

    taken, wire_bytes: passes of complete texts, and bytes of draft nodes for them. promised:
    observed prices over the predicted prices of the plans in force. errors: by stage, median and
    p95 of the errors of predicted times.
    """

    seconds: float = 0.0
    num_texts: int = 0
    num_wrong: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    gaps_s: list[tuple[float, float, int]] = field(default_factory=list)
    tokens_of: Counter[int] = field(default_factory=Counter)
    most_at_once: int = 0
    waits_s: list[float] = field(default_factory=list)
    taken: Taken = field(default_factory=Taken)
    wire_bytes: int = 0
    promised: list[float] = field(default_factory=list)
    errors: dict[str, list[float]] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        return self.tokens_of.total()

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.seconds

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
        self._read_at = now()
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
        heard.seconds, self._read_at = now - self._read_at, now
        heard.waits_s = [now - at for at in self._last_at.values()]
        return heard

    def _take(self, line: dict[str, Any], heard: Heard) -> None:
        if "errors" in line:
            heard.promised += line["promised"]
            heard.errors = line["errors"]
            return
        stream, at = line["stream"], line["at"]
        self._last_at[stream] = at
        if count := line.get("tokens"):
            heard.tokens_of[stream] += count
            heard.most_at_once = max(heard.most_at_once, count)
            if (before := self._tokens_at.get(stream)) is not None:
                heard.gaps_s.append((at, at - before, line["length"]))
            self._tokens_at[stream] = at
        elif "end" in line:
            heard.num_wrong += line["is_wrong"]
            if line["end"] == "finished":
                heard.num_texts += 1
                if figures := line.get("figures"):
                    heard.taken.add(StreamFigures(**figures))
                    heard.wire_bytes += figures["draft_wire_bytes"]
                self._tokens_at.pop(stream, None)
            else:
                heard.failures[line["reason"]] += 1


async def start_streams(mesh: Fleet, name: str, place: str, task: Task) -> Hearing:
    """Start a process of streams, which go on for ever; return its reader once it has begun."""
    await mesh.start_module(name, place, "bench.harness.streams", json.dumps(asdict(task)))
    await mesh.has_printed(name)
    return Hearing(mesh.log(name), mesh.now)


async def listened(hearings: Sequence[Hearing], after_s: float, seconds: float) -> list[Heard]:
    """Return what is heard in so many seconds, which begin after others."""
    await asyncio.sleep(after_s)
    for hearing in hearings:
        hearing.heard()
    await asyncio.sleep(seconds)
    return [hearing.heard() for hearing in hearings]


def case_of(recording: Recording, text: RecordedText) -> Case:
    """Return a recorded text as a request."""
    whole = b"".join(recording.pieces[token_id] for token_id in text.output_ids)
    options = GenerateOptions(max_tokens=len(text.output_ids), ignore_eog=True)
    return Case(text.prompt_ids, options, (Expected(text.output_ids, whole, "length"),))


def first_length(num_tokens: int, stream: int, num_streams: int) -> int:
    """Return the length of the first text of a stream whose task is staggered."""
    return max(1, num_tokens * (stream + 1) // num_streams)


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


async def stream(client: Client, recording: Recording, task: Task, number: int) -> None:
    """Request one text after the other, and print what comes."""
    texts = [recording.texts[k] for k in task.texts or range(len(recording.texts))]
    turn = first = task.first + number

    def seen(record: Record) -> None:
        event = record.events[-1]
        length = len(record.case.prompt) + event.position
        say(stream=first, at=event.at_s, tokens=len(event.token_ids), length=length)

    say(stream=first, at=asyncio.get_running_loop().time())
    while True:
        text = texts[turn % len(texts)]
        if task.is_staggered and turn == first:
            length = first_length(len(text.output_ids), number, task.num_streams)
            text = replace(text, output_ids=text.output_ids[:length])
        record = await ask(client, turn, case_of(recording, text), None, seen)
        end = {"end": record.end, "reason": record.reason, "is_wrong": bool(faults_of(record))}
        figures = record.figures and asdict(record.figures)
        say(stream=first, at=record.ended_at_s, **end, figures=figures)
        turn += task.num_streams
        if record.end != "finished":
            await asyncio.sleep(_RETRY_S)


async def watch(client: Client) -> None:
    """Print again and again how far the coordinator's predictions are off."""
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        promised: list[float] = []
        errors: dict[str, tuple[float, float]] = {}
        with contextlib.suppress(RequestFailedError):
            for target in (await client.status()).targets:
                if (plan := target.plan) is None or (observed := target.observed) is None:
                    continue
                predicted_s = plan.grouped_price_s if plan.batches else plan.open_price_s
                if predicted_s and observed.price_s:
                    promised.append(observed.price_s / predicted_s)
                seen = {stage: e for stage, e in observed.errors.items() if e.num_seen}
                errors |= {stage: (error.median, error.p95) for stage, error in seen.items()}
        say(promised=promised, errors=errors)


async def run(endpoint: str, keys: str, task: Task) -> None:
    recording = read_recording(RECORDING)
    own = Keyring(Path(keys)).client_keys(endpoint)
    with ZmqContext() as context:
        transport = context.connect(endpoint, own)
        options: dict[str, Any] = {"join_timeout_s": None, "rejoins": True, "role": "admin"}
        client = Client(transport, endpoint=endpoint, **options)
        async with client.running():
            await client.nodes()
            async with asyncio.TaskGroup() as group:
                group.create_task(watch(client))
                for number in range(task.num_streams):
                    group.create_task(stream(client, recording, task, number))


if __name__ == "__main__":
    endpoint_, keys_, task_ = sys.argv[1:]
    asyncio.run(run(endpoint_, keys_, Task(**json.loads(task_))))
