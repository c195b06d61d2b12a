"""Whether planning stands in the way: from a CommitReply to what its streams do next.

The same mesh of nodes that look tokens up, once with the live planner and once with one that gives
its stored plans again. What is between the two is what planning adds to the way of a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
from dataclasses import asdict

import numpy as np

from bench.live.planning_hub import POLICIES, Figures, Task, Times
from bench.live.scale import running, streams_on
from mesh.zmq_transport import ZmqContext

_QUANTILES = (0.5, 0.9, 0.99, 1.0)
_START_LIMIT_S = 120.0
# Large commits, which a plan must not hold up.
_STREAMS_A_TARGET = 128
_ROWS = (
    ("first message on", "first"),
    ("last message on", "last"),
    ("next message read", "handled"),
    ("planner alone", "plans"),
)


async def compare(num_streams: int, seconds: float, pass_ms: float, gamma: int | None) -> str:
    """A table of both planners. gamma: None lets the planner choose."""
    cores = sorted(os.sched_getaffinity(0))
    lines = [
        f"{num_streams} streams, {seconds:g} s, passes of {pass_ms:g} ms; milliseconds from a "
        f"CommitReply that was read, of processor time (of wall time): p50, p90, p99, most",
        "",
        "| planner | until | times | " + " | ".join(f"p{100 * q:g}" for q in _QUANTILES) + " |",
        "|---|---|---|" + "---|" * len(_QUANTILES),
    ]
    os.sched_setaffinity(0, set(cores[1:]) or set(cores))
    try:
        for planner in POLICIES:
            made = await _measured(cores[0], planner, num_streams, seconds, pass_ms, gamma)
            for name, key in _ROWS:
                lines.append(f"| {planner} | {name} | {_row(getattr(made, key))} |")
    finally:
        os.sched_setaffinity(0, set(cores))
    return "\n".join(lines)


def _row(times: Times) -> str:
    if not times:
        return "0 |" + " |" * (len(_QUANTILES) - 1)
    wall, processor = 1e3 * np.quantile(np.array(times), _QUANTILES, axis=0).T
    cells = [f"{cpu:.2f} ({all_:.2f})" for cpu, all_ in zip(processor, wall, strict=True)]
    return " | ".join([str(len(times)), *cells])


async def _measured(
    core: int, planner: str, num_streams: int, seconds: float, pass_ms: float, gamma: int | None
) -> Figures:
    with tempfile.TemporaryDirectory(prefix="airdraft-planning-") as folder:
        endpoint = f"ipc://{folder}/mesh.sock"
        num_nodes = -(-num_streams // _STREAMS_A_TARGET)
        async with contextlib.AsyncExitStack() as stack:
            hub = await stack.enter_async_context(
                running("bench.live.planning_hub", core=core, piped=True)
            )
            assert hub.stdin is not None
            assert hub.stdout is not None
            hub.stdin.write(json.dumps(asdict(Task(endpoint, planner, seconds))).encode() + b"\n")
            await asyncio.wait_for(hub.stdout.readline(), _START_LIMIT_S)
            for number in range(num_nodes):
                for role in ("target", "draft"):
                    told = role, endpoint, f"{role}-{number}", str(pass_ms), str(_STREAMS_A_TARGET)
                    await stack.enter_async_context(running("bench.live.light_nodes", *told))
            context = stack.enter_context(ZmqContext())
            streams = streams_on(context, endpoint, 2 * num_nodes, num_streams, gamma)
            await stack.enter_async_context(streams)
            hub.stdin.write(b"measure\n")
            reading = hub.stdout.readline()
            found = await asyncio.wait_for(reading, seconds + _START_LIMIT_S)
    return Figures(**json.loads(found))
