"""The streams of one place, which request recorded texts in a closed loop, and what they receive.

All tokens are compared with the recording, which is the undisturbed run.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from airdraft.nodes.client.client import MeshClient, RequestFailedError
from airdraft.nodes.client.generation import GenerateOptions
from bench.asking import Taken
from bench.emulate.recording import RecordedText, Recording, read_recording
from bench.harness.cases import Case, Expected
from bench.harness.fleet import Fleet
from bench.harness.history import Record, faults_of
from bench.harness.processes import HUB, beside
from bench.harness.report import quantiles
from bench.harness.work import ask, keep_asking

EMULATED: Final = Path(__file__).parents[1] / "emulate"
RECORDING: Final = EMULATED / "recordings" / "smollm2-135m.json.z"
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
        """Returns faults that no link excuses: wrong texts and failed requests."""
        found = [f"{self.num_wrong} wrong texts"] if self.num_wrong else []
        return found + ([f"requests failed: {dict(self.failures)}"] if self.failures else [])

    def between_ms(self) -> str:
        """Returns quantiles of the milliseconds between two notices, for a row of a table."""
        return " ".join(f"{s * 1e3:.0f}" for s in quantiles([gap_s for _, gap_s, _ in self.gaps_s]))


def counted(heard: Sequence[Heard]) -> str:
    """Returns how many texts were wrong, complete and failed, for a row of a table."""
    wrong, whole = (sum(n) for n in zip(*((h.num_wrong, h.num_texts) for h in heard), strict=True))
    return f"{wrong}, {whole}, {sum(each.failures.total() for each in heard)}"


class Hearing:
    """What streams receive, a part at a time."""

    def __init__(self) -> None:
        self._now = asyncio.get_running_loop().time
        self._since = self._now()
        self._heard = Heard()
        self._last_at: dict[int, float] = {}
        # Time of the last tokens of the present text, or of the one before if that failed.
        self._tokens_at: dict[int, float] = {}

    def heard(self) -> Heard:
        """Returns what was received since the last call."""
        now, heard, self._heard = self._now(), self._heard, Heard()
        heard.seconds, self._since = now - self._since, now
        heard.waits_s = [now - at for at in self._last_at.values()]
        return heard

    def begin(self, stream: int) -> None:
        self._last_at[stream] = self._now()

    def see(self, stream: int, record: Record) -> None:
        """Take the last event of a text."""
        event, heard = record.events[-1], self._heard
        self._last_at[stream] = event.at_s
        if count := len(event.token_ids):
            heard.tokens_of[stream] += count
            heard.most_at_once = max(heard.most_at_once, count)
            if (before := self._tokens_at.get(stream)) is not None:
                length = len(record.case.prompt) + event.position
                heard.gaps_s.append((event.at_s, event.at_s - before, length))
            self._tokens_at[stream] = event.at_s

    def end(self, stream: int, record: Record) -> None:
        """Take a text that has ended."""
        heard = self._heard
        self._last_at[stream] = record.ended_at_s
        heard.num_wrong += bool(faults_of(record))
        if record.end != "finished":
            heard.failures[record.reason] += 1
            return
        heard.num_texts += 1
        self._tokens_at.pop(stream, None)
        if record.figures is not None:
            heard.taken.add(record.figures)
            heard.wire_bytes += record.figures.draft_wire_bytes

    async def watch(self, client: MeshClient) -> None:
        """Take again and again how far the coordinator's predictions are off."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            with contextlib.suppress(RequestFailedError):
                for target in (await client.status()).targets:
                    if (plan := target.plan) is None or (observed := target.observed) is None:
                        continue
                    predicted_s = plan.grouped_price_s if plan.groups else plan.open_price_s
                    if predicted_s and observed.price_s:
                        self._heard.promised.append(observed.price_s / predicted_s)
                    for stage, error in observed.errors.items():
                        if error.num_seen:
                            self._heard.errors[stage] = [error.median, error.p95]


@contextlib.asynccontextmanager
async def streams(mesh: Fleet, task: Task, place: str = HUB) -> AsyncIterator[Hearing]:
    """Run streams through one client, which has joined when the block begins, until its end."""
    recording, hearing, num = read_recording(RECORDING), Hearing(), task.num_streams
    texts = [recording.texts[k] for k in task.texts or range(len(recording.texts))]
    turns = [itertools.count(task.first + stream, num) for stream in range(num)]
    async with mesh.clients(1, "admin", place) as (client,):
        await client.nodes()

        async def one(stream: int, number: int) -> bool:
            turn = next(turns[stream])
            text = texts[turn % len(texts)]
            if task.is_staggered and number < num:
                length = first_length(len(text.output_ids), number, num)
                text = replace(text, output_ids=text.output_ids[:length])
            case = case_of(recording, text)
            record = await ask(client, turn, case, None, partial(hearing.see, stream))
            hearing.end(stream, record)
            return record.end == "finished"

        for stream in range(num):
            hearing.begin(stream)
        asking = keep_asking(one, num, itertools.count())
        async with beside(hearing.watch(client), asking):
            yield hearing


async def listened(hearings: Sequence[Hearing], after_s: float, seconds: float) -> list[Heard]:
    """Returns what is heard in so many seconds, which begin after others."""
    await asyncio.sleep(after_s)
    for hearing in hearings:
        hearing.heard()
    await asyncio.sleep(seconds)
    return [hearing.heard() for hearing in hearings]


def case_of(recording: Recording, text: RecordedText) -> Case:
    """Returns a recorded text as a request."""
    whole = b"".join(recording.pieces[token_id] for token_id in text.output_ids)
    options = GenerateOptions(max_tokens=len(text.output_ids), ignore_eog=True)
    return Case(text.prompt_ids, options, (Expected(text.output_ids, whole, "length"),))


def first_length(num_tokens: int, stream: int, num_streams: int) -> int:
    """Returns the length of the first text of a stream whose task is staggered."""
    return max(1, num_tokens * (stream + 1) // num_streams)
