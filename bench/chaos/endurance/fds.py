"""Open more connections to a coordinator and a gateway than these may have open files."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Final

import httpx

from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.service.runtime import raise_file_limit
from bench.harness.fleet import COORDINATOR, Fleet, FleetError, Setup, fleet
from bench.harness.http import COMPLETIONS, http_client, port_of, request_of
from bench.harness.processes import beside
from bench.harness.report import Findings, counts
from bench.hostile.port import answers, asking, busy, live_coordinator

_LIMIT_S: Final = 120.0
_MOST_CPU: Final = 0.3
_MOST_RECOVERY_S: Final = 1.0
_FULL: Final = {"prompt": "of whom files are scarce", "temperature": 0, "ignore_eos": True}


def _limited(max_files: int) -> list[str]:
    """Returns the command prefix that limits the open files of a process."""
    return ["prlimit", f"--nofile={max_files}", "--"]


def judge(found: Findings, cpu: float, recovered_s: float, who: str) -> None:
    """Add faults for too much processor time or too slow a recovery.

    cpu: part of a core. recovered_s: from the end of the crowd until a new client was served.
    """
    if cpu > _MOST_CPU:
        found.faults.append(f"the {who} took {cpu:.0%} of a core without any free file")
    if recovered_s > _MOST_RECOVERY_S:
        found.faults.append(f"the {who} served a new client after {recovered_s:.2f} s")


# -- the coordinator -------------------------------------------------------------------------------


async def coordinator_starved(max_files: int, seconds: float) -> Findings:
    """Open silent connections, then members, twice as many as files, beside a busy client."""
    found, num = Findings(), 2 * max_files
    async with live_coordinator(_limited(max_files)) as mesh, asking(mesh) as times_s:
        crowds = {
            "silent connections": _silent(port_of(mesh.endpoint), num),
            "members": _members(mesh, num),
        }
        for who, crowd in crowds.items():
            async with crowd as clients:
                times_s.clear()
                cpu = await busy(mesh, seconds)
                answered, num_joined = answers(times_s), sum(each.is_joined for each in clients)
                if not times_s:
                    found.faults.append(f"beside {who} the client got no answer")
                # Some of them, but not as many as there are files.
                if who == "members" and not 0 < num_joined < max_files:
                    found.faults.append(f"{num_joined} of the members have joined")
            began = mesh.now()
            async with asyncio.timeout(_LIMIT_S), asking(mesh):
                recovered_s = mesh.now() - began
            found.lines.append(
                f"coordinator, twice as many {who} as files: {num_joined} of them joined, "
                f"{cpu:.0%} of a core; a client beside them: {answered}; a new client joined "
                f"{recovered_s:.2f} s after they left"
            )
            judge(found, cpu, recovered_s, "coordinator")
    return found


@contextlib.asynccontextmanager
async def _members(mesh: Fleet, count: int) -> AsyncIterator[list[MeshClient]]:
    """Run clients; the block begins when one of them has joined."""
    async with mesh.clients(count) as clients:
        what = "the clients have not joined"
        await mesh.until(lambda: any(each.is_joined for each in clients), _LIMIT_S, what)
        yield clients


@contextlib.asynccontextmanager
async def _silent(port: int, count: int) -> AsyncIterator[list[MeshClient]]:
    """Open connections that send nothing and are reopened when closed; they are no clients."""

    async def stay() -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    while await reader.read(1024):
                        pass
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.01)

    async with beside(*(stay() for _ in range(count))):
        yield []


# -- the gateway -----------------------------------------------------------------------------------


async def gateway_starved(max_files: int, num_callers: int, seconds: float) -> Findings:
    """Open more HTTP connections than files, beside one stream that continues."""
    raise_file_limit()
    found = Findings()
    # A toy without a pause makes 64 KiB of events in milliseconds. If this process, which opens
    # hundreds of connections, does not read for as long, the gateway drops the stream.
    setup = Setup(num_targets=1, num_drafts=0, num_gateways=1, target_model="toy:1@5ms")
    async with fleet(setup, starts=(COORDINATOR, "target-0")) as mesh:
        await mesh.start("gateway-0", prefix=_limited(max_files))
        port = await mesh.wait_ready("gateway-0")
        async with _streaming(port) as num_read, contextlib.AsyncExitStack() as stack:
            calm = await busy(mesh, seconds, "gateway-0")
            first, *callers = (http_client(port, _LIMIT_S) for _ in range(num_callers + 1))
            for caller in (first, *callers):
                stack.push_async_callback(caller.aclose)
            statuses = Counter(await asyncio.gather(*map(_outcome, callers)))
            before = num_read()
            cpu = max(0.0, await busy(mesh, seconds, "gateway-0") - calm)
            # On a busy machine the stream may need longer.
            with contextlib.suppress(FleetError):
                await mesh.until(lambda: num_read() > before, _LIMIT_S, "nothing was read")
            more, one_more = num_read() - before, await _outcome(first)
        began = mesh.now()
        async with asyncio.timeout(_LIMIT_S):
            while not await _is_served(port):
                mesh.check()
        recovered_s = mesh.now() - began
        judge(found, cpu, recovered_s, "gateway")
        said = counts(statuses)
        found.lines += [
            f"gateway, {num_callers} connections: {said}; one more: {one_more}; {cpu:.0%} of a "
            f"core more than before; a stream opened before received {more} bytes meanwhile",
            f"a new request was served {recovered_s:.2f} s after they left",
        ]
        if not more:
            found.faults.append("the stream opened before received nothing")
        if not (statuses["200"] and statuses["503 with Retry-After"]):
            found.faults.append(f"not all kinds of answers were given: {said}")
        # The gateway keeps 64 files back, and the stream has one.
        if statuses["200"] >= max_files - 64:
            found.faults.append(f"more connections were served than there are files: {said}")
        if statuses["never answered"]:
            found.faults.append(f"some connections were never answered: {said}")
        found.faults += mesh.accidents
    return found


@contextlib.asynccontextmanager
async def _streaming(port: int) -> AsyncIterator[Callable[[], int]]:
    """Run streams on one connection, one after another; yield a count of received bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = request_of(COMPLETIONS, {**_FULL, "max_tokens": 8000, "stream": True})
    writer.write(request)
    num_read = len(await reader.readuntil(b"data: "))

    async def read() -> None:
        nonlocal num_read
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                num_read += len(line)
                if line == b"data: [DONE]\n":
                    writer.write(request)

    try:
        async with beside(read()):
            yield lambda: num_read
    finally:
        writer.transport.abort()


async def _outcome(http: httpx.AsyncClient) -> str:
    """Returns the outcome of a request; the connection stays open if the gateway keeps it."""
    try:
        answer = await http.get("/healthz")
    except httpx.TimeoutException:
        return "never answered"
    except httpx.HTTPError:
        return "closed"
    retry = " with Retry-After" if "retry-after" in answer.headers else ""
    return f"{answer.status_code}{retry}"


async def _is_served(port: int) -> bool:
    async with http_client(port, _LIMIT_S) as http:
        with contextlib.suppress(httpx.HTTPError):
            answer = await http.post(COMPLETIONS, json={**_FULL, "max_tokens": 4})
            return answer.status_code == 200
    return False
