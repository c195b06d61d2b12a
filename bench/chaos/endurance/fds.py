"""Open more connections to a coordinator and a gateway than these may have open files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.chaos.fleet.fleet import Fleet, Setup, fleet
from bench.chaos.http import Connection
from bench.gateway.process import cpu_s
from bench.hostile.live import Asked, Live, asking, live_coordinator, new_pairs
from mesh.keys import KeyPair
from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client
from nodes.service.runtime import raise_file_limit

_LIMIT_S: Final = 120.0
_POLL_S: Final = 0.02
_MOST_CPU: Final = 0.3
_MOST_RECOVERY_S: Final = 1.0
_FULL: Final = {"prompt": "of whom files are scarce", "temperature": 0, "ignore_eos": True}


@dataclass(slots=True)
class Starved:
    """Results.

    num_answers, num_joined: answers to the client beside the crowds, and members of the crowds that
    joined. statuses: outcomes of HTTP requests. recovered_s: times from the end of the crowd until
    a new client was served.
    """

    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    num_answers: int = 0
    num_joined: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    recovered_s: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        faults = "".join(f"\n  {fault}" for fault in self.faults)
        return "\n".join(self.lines) + f"\n{len(self.faults)} faults{faults}"

    def judge(self, cpu: float, recovered_s: float, who: str) -> None:
        """Add faults for too much processor time or too slow a recovery. cpu: part of a core."""
        self.recovered_s.append(recovered_s)
        if cpu > _MOST_CPU:
            self.faults.append(f"the {who} took {cpu:.0%} of a core without any free file")
        if recovered_s > _MOST_RECOVERY_S:
            self.faults.append(f"the {who} served a new client after {recovered_s:.2f} s")


# -- the coordinator -------------------------------------------------------------------------------


async def coordinator_starved(max_files: int, seconds: float) -> Starved:
    """Open silent connections, then members, twice as many as files, beside a busy client."""
    raise_file_limit()
    found = Starved()
    pairs = new_pairs(1 + 2 * max_files)
    with tempfile.TemporaryDirectory() as folder:
        async with live_coordinator(Path(folder), pairs, max_files) as live, asking(live) as asked:
            crowds = {
                "silent connections": _silent(live, 2 * max_files),
                "members": _members(live, pairs[1:]),
            }
            for who, crowd in crowds.items():
                await _coordinator_with(live, asked, found, who, crowd, seconds)
    return found


async def _coordinator_with(
    live: Live,
    asked: Asked,
    found: Starved,
    who: str,
    crowd: contextlib.AbstractAsyncContextManager[Callable[[], int]],
    seconds: float,
) -> None:
    async with crowd as num_in:
        asked.times_s.clear()
        before_s, began = live.cpu_s(), time.monotonic()
        await asyncio.sleep(seconds)
        cpu = (live.cpu_s() - before_s) / (time.monotonic() - began)
        answers, num_joined = str(asked), num_in()
        found.num_answers += len(asked.times_s)
        if not asked.times_s:
            found.faults.append(f"beside {who} the client got no answer")
        found.num_joined += num_joined
    recovered_s = await _until(lambda: _newcomer(live))
    found.lines.append(
        f"coordinator, twice as many {who} as files: {num_joined} of them joined, {cpu:.0%} of a "
        f"core; a client beside them: {answers}; a new client joined {recovered_s:.2f} s after "
        f"they left"
    )
    found.judge(cpu, recovered_s, "coordinator")


@contextlib.asynccontextmanager
async def _silent(live: Live, count: int) -> AsyncIterator[Callable[[], int]]:
    """Open connections that send nothing and are reopened when closed; yield a count of members.

    None of them ever is a member.
    """

    async def stay() -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
                try:
                    while await reader.read(1024):
                        pass
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(stay()) for _ in range(count)]
    try:
        yield lambda: 0
    finally:
        await _end(tasks)


@contextlib.asynccontextmanager
async def _members(live: Live, pairs: Sequence[KeyPair]) -> AsyncIterator[Callable[[], int]]:
    """Run clients, each with a key of its own; yield a function that counts the joined ones."""
    with ZmqContext() as context:
        clients = [
            Client(
                context.connect(live.endpoint, live.keys(pair)),
                endpoint=live.endpoint,
                join_timeout_s=None,
                rejoins=True,
            )
            for pair in pairs
        ]
        tasks = [asyncio.create_task(client.run()) for client in clients]
        try:
            yield lambda: sum(client.is_joined for client in clients)
        finally:
            for client in clients:
                client.close()
            await _end(tasks)


async def _newcomer(live: Live) -> bool:
    async with asking(live):
        return True


# -- the gateway -----------------------------------------------------------------------------------


async def gateway_starved(max_files: int, num_callers: int, seconds: float) -> Starved:
    """Open more HTTP connections than files, beside one stream that continues."""
    raise_file_limit()
    found = Starved()
    setup = Setup(num_targets=1, num_drafts=0, num_gateways=1)
    async with fleet(setup) as mesh, mesh.clients(1) as (client,):
        await mesh.wait_for(client)
        # Start the gateway again with a limit of files; it needs the keys of the first start.
        await mesh.kill("gateway-0")
        async with _gateway(mesh, max_files) as (port, pid):
            await _until(lambda: _is_served(port))
            async with _streaming(port) as num_read:
                cpu = await _gateway_with(port, pid, found, num_callers, seconds, num_read)
            recovered_s = await _until(lambda: _is_served(port))
            found.judge(cpu, recovered_s, "gateway")
            found.lines.append(f"a new request was served {recovered_s:.2f} s after they left")
    return found


async def _gateway_with(
    port: int,
    pid: int,
    found: Starved,
    num_callers: int,
    seconds: float,
    num_read: Callable[[], int],
) -> float:
    """Return the part of a core that the callers take, beyond what the stream takes."""
    calm = await _busy(pid, seconds)
    callers = [Connection(port) for _ in range(num_callers + 1)]
    try:
        found.statuses.update(await asyncio.gather(*map(_outcome, callers[1:])))
        before = num_read()
        cpu = await _busy(pid, seconds)
        # On a busy machine the stream may need longer.
        with contextlib.suppress(TimeoutError):
            await _until(lambda: _has_more(num_read, before))
        more = num_read() - before
        one_more = await _outcome(callers[0])
    finally:
        for caller in callers:
            await caller.close()
    counts = ", ".join(f"{count} {what}" for what, count in sorted(found.statuses.items()))
    found.lines.append(
        f"gateway, {num_callers} connections: {counts}; one more: {one_more}; {cpu:.0%} of a core; "
        f"a stream opened before received {more} bytes meanwhile"
    )
    if not more:
        found.faults.append("the stream opened before received nothing")
    if found.statuses["200"] + found.statuses["503 with Retry-After"] < 2:
        found.faults.append(f"fewer than 2 connections were answered: {counts}")
    if found.statuses["never answered"]:
        found.faults.append(f"some connections were never answered: {counts}")
    return max(0.0, cpu - calm)


async def _busy(pid: int, seconds: float) -> float:
    """Return the part of a core that a process takes during the next seconds."""
    before_s, began = cpu_s(pid), time.monotonic()
    await asyncio.sleep(seconds)
    return (cpu_s(pid) - before_s) / (time.monotonic() - began)


@contextlib.asynccontextmanager
async def _gateway(mesh: Fleet, max_files: int) -> AsyncIterator[tuple[int, int]]:
    argv = ["gateway", "--connect", mesh.endpoint, "--keys", str(mesh.keys("gateway-0"))]
    script = f'ulimit -n {max_files}; exec "$@"'
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", script, "sh", sys.executable, "-m", "nodes.cli", *argv),
        *("--listen", "127.0.0.1:0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), _LIMIT_S)
        yield int(line.decode().rsplit(":", 1)[1].split("/")[0]), process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def _streaming(port: int) -> AsyncIterator[Callable[[], int]]:
    """Run streams on one connection, one after another; yield a count of received bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({**_FULL, "max_tokens": 8000, "stream": True}).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    num_read = len(await reader.readuntil(b"data: "))

    async def read() -> None:
        nonlocal num_read
        while line := await reader.readline():
            num_read += len(line)
            if line == b"data: [DONE]\n":
                writer.write(head.encode() + body)

    reading = asyncio.create_task(read())
    try:
        yield lambda: num_read
    finally:
        await _end([reading])
        writer.transport.abort()


async def _outcome(connection: Connection) -> str:
    """Return the outcome of a request; the connection stays open if the gateway keeps it."""
    try:
        async with asyncio.timeout(_LIMIT_S):
            answer = await connection.ask("GET", "/healthz")
    except (OSError, EOFError):
        return "closed"
    except TimeoutError:
        return "never answered"
    retry = " with Retry-After" if "retry-after" in answer.headers else ""
    return f"{answer.status}{retry}"


async def _is_served(port: int) -> bool:
    connection = Connection(port)
    try:
        async with asyncio.timeout(_LIMIT_S):
            body = json.dumps({**_FULL, "max_tokens": 4}).encode()
            return (await connection.ask("POST", "/v1/completions", body)).status == 200
    except (OSError, EOFError):
        return False
    finally:
        await connection.close()


async def _until(is_so: Callable[[], Awaitable[bool]]) -> float:
    """Wait until the condition is true and return the seconds it took. Raises TimeoutError."""
    began = time.monotonic()
    async with asyncio.timeout(_LIMIT_S):
        while True:
            if await is_so():
                return time.monotonic() - began
            await asyncio.sleep(_POLL_S)


async def _has_more(num_read: Callable[[], int], before: int) -> bool:
    return num_read() > before


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
