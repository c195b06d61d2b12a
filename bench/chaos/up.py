"""Kill the target of `airdraft up` repeatedly while the OpenAI client sends requests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from random import Random
from typing import Final

from bench.chaos.cases import Case
from bench.chaos.http import Connection
from bench.chaos.up_asking import REQUEST_LIMIT_S, Asker, Upheaval

_ROOT: Final = Path(__file__).parents[2]
_UP_LIMIT_S: Final = 180.0
# From a kill until /readyz reports it, and from then until /readyz reports readiness again.
_NOTICED_LIMIT_S: Final = 5.0
_READY_LIMIT_S: Final = 60.0
_STOP_LIMIT_S: Final = 20.0
_LOOK_EVERY_S: Final = 0.05
TOYS: Final = ("--model", "toy:1", "--draft", "toy:0.8")


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
    mesh is ready again. Half of the streams request streamed answers. Raises RuntimeError if
    `airdraft up` does not start.
    """
    from openai import AsyncOpenAI

    found = Upheaval()
    async with (
        running_up(arguments, found) as (process, url),
        AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=REQUEST_LIMIT_S) as client,
    ):
        model = (await client.models.list()).data[0].id
        is_over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for stream in range(num_streams):
                drawn = Random(seed + stream)
                asker = Asker(client, model, cases, drawn, found, streams=stream % 2 == 0)
                group.create_task(asker.run(is_over))
            for kill in range(num_kills):
                took_s = await _kill_target(process.pid, int(url.split(":")[2].split("/")[0]))
                if took_s is None:
                    found.faults.append(
                        f"kill {kill + 1}: not noticed within {_NOTICED_LIMIT_S:g} s, or not ready "
                        f"within {_READY_LIMIT_S:g} s"
                    )
                    break
                found.ready_s.append(took_s)
                note(f"kill {kill + 1} of {num_kills}: ready again after {took_s:.1f} s")
                await asyncio.sleep(max(0.0, gap_s - took_s))
            is_over.set()
    return found


@contextlib.asynccontextmanager
async def running_up(
    arguments: Sequence[str], found: Upheaval, prefix: Sequence[str] = ()
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run `airdraft up`; yield its process and the URL of its API, and stop it at the end.

    prefix: precedes the command, for instance to limit its memory. A non-zero exit code and nodes
    that outlive the command are added to the faults of `found`.
    """
    with tempfile.TemporaryDirectory(prefix="airdraft-bench-") as keys:
        process = await asyncio.create_subprocess_exec(
            *(*prefix, sys.executable, "-m", "nodes.cli", "up", *arguments),
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
                        raise RuntimeError("airdraft up did not start; run it alone to see why")
            yield process, line.decode().split()[-1]
            nodes = _children(process.pid)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(_STOP_LIMIT_S):
                code = await process.wait()
            if code:
                found.faults.append(f"airdraft up ended with exit code {code}")
            if left := [pid for pid in nodes if _is_there(pid)]:
                found.faults.append(f"{len(left)} of its nodes still run after its end")
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
    """Return the process id of the target that `airdraft up` has started, if it runs."""
    for child in _children(pid):
        with contextlib.suppress(OSError):
            if b"target" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                return child
    return None


async def _kill_target(pid: int, port: int) -> float | None:
    """Kill the target and return the seconds until the mesh was ready again.

    Returns None if the kill was not noticed or the mesh did not become ready within the limits.
    """
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
