"""`airdraft up` whose target is killed again and again while the official client asks.

Each answer is compared with what the engine alone makes of the same token ids, or is a clear 5xx.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from bench.chaos.cases import Case, sampling_of, undisturbed
from bench.chaos.http import Connection
from bench.chaos.quantiles import spread
from nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from nodes.generation import GenerateOptions

if TYPE_CHECKING:
    import openai

_ROOT: Final = Path(__file__).parents[2]
_UP_LIMIT_S: Final = 180.0
# From a kill until /readyz says so, and until it says that all is well again.
_NOTICED_LIMIT_S: Final = 5.0
_READY_LIMIT_S: Final = 60.0
_REQUEST_LIMIT_S: Final = 120.0
_STOP_LIMIT_S: Final = 20.0
_LOOK_EVERY_S: Final = 0.05
# Who was refused does not hammer.
_PAUSE_S: Final = 0.2
_MOST_SHOWN: Final = 5
TOYS: Final = ("--model", "toy:1", "--draft", "toy:0.8")


def simple_toy_cases(random: Random, count: int) -> list[Case]:
    """One choice each, greedy or sampled, as bench.chaos.fleet.real has them of a real target."""
    config = ToyConfig()
    model, tokenizer = ToyModel(config), ToyTokenizer(config.num_vocab)
    cases = []
    for _ in range(count):
        ids = tuple(random.randrange(1, config.num_vocab) for _ in range(20))
        options = GenerateOptions(
            max_tokens=random.randrange(24, 400),
            temperature=random.choice((0.0, 0.8)),
            seed=random.randrange(1 << 40),
        )
        sampling = sampling_of(options, 0)
        made = undisturbed(model, tokenizer.piece, ids, sampling, max_tokens=options.max_tokens)
        cases.append(Case(ids, options, (made,)))
    return cases


@dataclass(slots=True)
class Upheaval:
    """What came of it. ready_s: from each kill until the mesh was ready again. answers: whole and
    streamed ones that were right. errors: clear 5xx, by status and text. lines: what `up` said."""

    ready_s: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0
    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        answers = ", ".join(f"{count} {how}" for how, count in sorted(self.answers.items()))
        lines = [
            f"{len(self.ready_s)} kills of the target; ready again after {spread(self.ready_s)}",
            f"{self.answers.total() + self.errors.total()} requests: {self.answers.total()} right "
            f"({answers or 'none'}), {self.errors.total()} ended by a clear 5xx; the longest took "
            f"{self.longest_s:.1f} s",
            *(f"{count} x {what}" for what, count in self.errors.most_common()),
        ]
        if not self.faults:
            return "\n".join([*lines, "0 wrong, 0 cut off, 0 without an end"])
        return "\n".join([*lines, f"WRONG: {len(self.faults)}", *self.faults[:_MOST_SHOWN]])


async def run_up(
    arguments: Sequence[str],
    cases: Sequence[Case],
    *,
    num_kills: int,
    gap_s: float,
    num_streams: int,
    seed: int,
    note: Callable[[str], None],
) -> Upheaval:
    """arguments: of `airdraft up`. gap_s: from one kill to the next, or until it is ready again
    if that takes longer. Half of the streams ask for streamed answers. Raises RuntimeError."""
    from openai import AsyncOpenAI

    found = Upheaval()
    async with (
        _up(arguments, found) as (process, url),
        AsyncOpenAI(
            base_url=url, api_key="none", max_retries=0, timeout=_REQUEST_LIMIT_S
        ) as client,
    ):
        model = (await client.models.list()).data[0].id
        is_over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for stream in range(num_streams):
                drawn = Random(seed + stream)
                asker = _Asker(client, model, cases, drawn, found, streams=stream % 2 == 0)
                group.create_task(asker.run(is_over))
            for kill in range(num_kills):
                took_s = await _kill_target(process.pid, int(url.split(":")[2].split("/")[0]))
                if took_s is None:
                    found.faults.append(f"kill {kill + 1}: not noticed, or never ready again")
                    break
                found.ready_s.append(took_s)
                note(f"kill {kill + 1} of {num_kills}: ready again after {took_s:.1f} s")
                await asyncio.sleep(max(0.0, gap_s - took_s))
            is_over.set()
    return found


class _Asker:
    """Asks one request after the other."""

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        model: str,
        cases: Sequence[Case],
        random: Random,
        found: Upheaval,
        *,
        streams: bool,
    ) -> None:
        self._client = client
        self._model = model
        self._cases = cases
        self._random = random
        self._found = found
        self._streams = streams

    async def run(self, is_over: asyncio.Event) -> None:
        while not is_over.is_set():
            case = self._random.choice(self._cases)
            began = time.perf_counter()
            await self._ask(case)
            took_s = time.perf_counter() - began
            self._found.longest_s = max(self._found.longest_s, took_s)

    async def _ask(self, case: Case) -> None:
        from openai import APIError, APIStatusError

        found, text, reason = self._found, "", None
        num_kills = len(found.ready_s)
        try:
            async with asyncio.timeout(_REQUEST_LIMIT_S):
                text, reason = await self._answer(case)
        except APIStatusError as error:
            if error.status_code < 500:
                found.faults.append(f"status {error.status_code}: {error.message}")
            found.errors[f"{error.status_code}: {error.message}"] += 1
            await asyncio.sleep(_PAUSE_S)
            return
        except APIError as error:
            # In a stream that has begun its status was told already; code says which it would be.
            if error.code not in ("unavailable", "internal", "deadline"):
                found.faults.append(f"a stream without an end: {type(error).__name__}: {error}")
            found.errors[f"in a stream, {error.code}: {error.message}"] += 1
            return
        except TimeoutError:
            kills = f"kills {num_kills + 1} to {len(found.ready_s)}"
            found.faults.append(f"no end within {_REQUEST_LIMIT_S:g} s, which had {kills}")
            return
        (expected,) = case.expected
        wanted = expected.text.decode("utf-8", "replace"), expected.finish_reason
        if (text, reason) == wanted:
            found.answers["streamed" if self._streams else "whole"] += 1
        else:
            found.faults.append(f"{text[-40:]!r} ({reason}) instead of {wanted[0][-40:]!r}")

    async def _answer(self, case: Case) -> tuple[str, str | None]:
        """Text and finish reason."""
        options = case.options
        asked: dict[str, Any] = {
            "model": self._model,
            "prompt": list(case.prompt),
            "max_tokens": options.max_tokens,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "seed": options.seed,
            "extra_body": {"top_k": options.top_k},
        }
        if not self._streams:
            (choice,) = (await self._client.completions.create(**asked)).choices
            return choice.text, choice.finish_reason
        text, reason = "", None
        async for chunk in await self._client.completions.create(**asked, stream=True):
            (choice,) = chunk.choices
            text += choice.text
            reason = choice.finish_reason or reason
        return text, reason


@contextlib.asynccontextmanager
async def _up(
    arguments: Sequence[str], found: Upheaval
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """`airdraft up` and the URL of its API; at the end it stops in good order."""
    with tempfile.TemporaryDirectory(prefix="airdraft-bench-") as keys:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "nodes.cli", "up", *arguments),
            *("--listen", "tcp://127.0.0.1:*", "--http", "127.0.0.1:0"),
            cwd=_ROOT,
            env={**os.environ, "AIRDRAFT_KEYS": keys},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        reading = asyncio.create_task(_read(process, found.lines))
        try:
            assert process.stdout is not None
            line = b""
            async with asyncio.timeout(_UP_LIMIT_S):
                while not line.startswith(b"OpenAI API at "):
                    line = await process.stdout.readline()
                    if not line:
                        raise RuntimeError("airdraft up did not start: see what it says by itself")
            yield process, line.decode().split()[-1]
            nodes = _children(process.pid)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(_STOP_LIMIT_S):
                code = await process.wait()
            if code:
                found.faults.append(f"airdraft up ended with {code}")
            if left := [pid for pid in nodes if _is_there(pid)]:
                found.faults.append(f"{len(left)} of its nodes were left behind")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            await reading


async def _read(process: asyncio.subprocess.Process, lines: list[str]) -> None:
    assert process.stderr is not None
    lines += [line.decode("utf-8", "replace").rstrip() async for line in process.stderr]


def _is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _target_of(pid: int) -> int | None:
    """The process id of the target that `airdraft up` has started, if it runs."""
    for child in _children(pid):
        with contextlib.suppress(OSError):
            if b"target" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                return child
    return None


async def _kill_target(pid: int, port: int) -> float | None:
    """Seconds until the mesh was ready again; None where that was not noticed, or is never."""
    target = _target_of(pid)
    if target is None:
        return None
    killed_at = time.perf_counter()
    os.kill(target, signal.SIGKILL)
    if not await _until_ready(port, _NOTICED_LIMIT_S, is_ready=False):
        return None
    if not await _until_ready(port, _READY_LIMIT_S, is_ready=True):
        return None
    return time.perf_counter() - killed_at


async def _until_ready(port: int, limit_s: float, *, is_ready: bool) -> bool:
    connection = Connection(port)
    give_up_at = time.perf_counter() + limit_s
    try:
        while time.perf_counter() < give_up_at:
            if ((await connection.ask("GET", "/readyz")).status == 200) == is_ready:
                return True
            await asyncio.sleep(_LOOK_EVERY_S)
        return False
    finally:
        await connection.close()
