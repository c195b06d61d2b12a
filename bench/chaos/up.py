"""Kill the target of `airdraft up` repeatedly while the OpenAI client sends requests.

Each answer must equal the text of the engine alone for the same token ids, or be a clear 5xx.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from bench.harness.cases import Case
from bench.harness.http import until_ready
from bench.harness.report import Findings, counts, spread
from bench.harness.up import Up, up
from bench.harness.work import Load
from bench.load.processes import tree

if TYPE_CHECKING:
    import openai

# From a kill until /readyz reports it, and from then until /readyz reports readiness again.
_NOTICED_LIMIT_S: Final = 5.0
_READY_LIMIT_S: Final = 60.0
_REQUEST_LIMIT_S: Final = 120.0
# Pause after a refusal, so that refused clients do not flood the gateway.
_PAUSE_S: Final = 0.2


@dataclass(slots=True)
class Upheaval(Findings):
    """Results of a run.

    ready_s: from each kill until the mesh was ready again. answers: counts of right answers, whole
    and streamed. errors: counts of clear 5xx, by status and text. told: stderr of `up`.
    """

    ready_s: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0
    told: list[str] = field(default_factory=list)

    def summary(self) -> list[str]:
        return [
            f"{len(self.ready_s)} kills of the target; ready again after {spread(self.ready_s)}",
            f"{self.answers.total() + self.errors.total()} requests: {self.answers.total()} right "
            f"({counts(self.answers)}), {self.errors.total()} ended by a clear 5xx; the longest "
            f"took {self.longest_s:.1f} s",
            *(f"{count} x {what}" for what, count in self.errors.most_common()),
        ]


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
    """Run `airdraft up` under requests and kill its target num_kills times.

    arguments: passed to `airdraft up`. gap_s: time from one kill to the next, extended until the
    mesh is ready again. Half of the streams request streamed answers. Raises NotStartedError.
    """
    from openai import AsyncOpenAI

    found, random = Upheaval(), Random(seed)
    with up(*arguments) as mesh:
        limits: dict[str, Any] = {"max_retries": 0, "timeout": _REQUEST_LIMIT_S}
        async with AsyncOpenAI(base_url=mesh.url, api_key="none", **limits) as client:
            model = (await client.models.list()).data[0].id

            async def ask(stream: int, _number: int) -> bool:
                began = time.perf_counter()
                case, streams = random.choice(cases), stream % 2 == 0
                is_answered = await _ask(client, model, case, found, streams=streams)
                found.longest_s = max(found.longest_s, time.perf_counter() - began)
                return is_answered

            load = Load(ask, num_streams, pause_s=_PAUSE_S)
            async with asyncio.TaskGroup() as group:
                group.create_task(load.run())
                for kill in range(num_kills):
                    took_s = await _kill_target(mesh)
                    if took_s is None:
                        found.faults.append(
                            f"kill {kill + 1}: not noticed within {_NOTICED_LIMIT_S:g} s, or not "
                            f"ready within {_READY_LIMIT_S:g} s"
                        )
                        break
                    found.ready_s.append(took_s)
                    note(f"kill {kill + 1} of {num_kills}: ready again after {took_s:.1f} s")
                    await asyncio.sleep(max(0.0, gap_s - took_s))
                load.stop()
        found.told = mesh.log.read_text(errors="replace").splitlines()
    found.faults += mesh.faults
    return found


async def _ask(
    client: openai.AsyncOpenAI, model: str, case: Case, found: Upheaval, *, streams: bool
) -> bool:
    """Send a request and judge what comes; return whether it was answered."""
    from openai import APIError, APIStatusError

    num_kills = len(found.ready_s)
    try:
        async with asyncio.timeout(_REQUEST_LIMIT_S):
            answer = await _answer(client, model, case, streams=streams)
    except APIStatusError as error:
        if error.status_code < 500:
            found.faults.append(f"status {error.status_code}: {error.message}")
        found.errors[f"{error.status_code}: {error.message}"] += 1
        return False
    except APIError as error:
        # A stream that has begun has sent its status already; the error's code stands for it.
        if error.code not in ("unavailable", "internal", "deadline"):
            found.faults.append(f"a stream without an end: {type(error).__name__}: {error}")
        found.errors[f"in a stream, {error.code}: {error.message}"] += 1
        return True
    except TimeoutError:
        kills = f"kills {num_kills + 1} to {len(found.ready_s)}"
        found.faults.append(f"no end within {_REQUEST_LIMIT_S:g} s, during {kills}")
        return True
    (expected,) = case.expected
    wanted = expected.text.decode("utf-8", "replace"), expected.finish_reason
    if answer == wanted:
        found.answers["streamed" if streams else "whole"] += 1
    else:
        text, reason = answer
        found.faults.append(f"{text[-40:]!r} ({reason}) instead of {wanted[0][-40:]!r}")
    return True


async def _answer(
    client: openai.AsyncOpenAI, model: str, case: Case, *, streams: bool
) -> tuple[str, str | None]:
    """Return the text and the finish reason."""
    options = case.options
    asked: dict[str, Any] = {
        "model": model,
        "prompt": list(case.prompt),
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "seed": options.seed,
        "extra_body": {"top_k": options.top_k, "min_p": options.min_p},
    }
    if not streams:
        (choice,) = (await client.completions.create(**asked)).choices
        return choice.text, choice.finish_reason
    text, reason = "", None
    async for chunk in await client.completions.create(**asked, stream=True):
        (choice,) = chunk.choices
        text += choice.text
        reason = choice.finish_reason or reason
    return text, reason


async def _kill_target(mesh: Up) -> float | None:
    """Kill the target and return the seconds until the mesh was ready again.

    Returns None if the kill was not noticed or the mesh did not become ready within the limits.
    """
    pid = next(filter(_is_target, tree(mesh.process.pid)[1:]), None)
    if pid is None:
        return None
    killed_at = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    for is_ready, limit_s in ((False, _NOTICED_LIMIT_S), (True, _READY_LIMIT_S)):
        if not await until_ready(mesh.port, limit_s, is_ready=is_ready):
            return None
    return time.perf_counter() - killed_at


def _is_target(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"target" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return False
