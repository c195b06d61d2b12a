"""Run one role in a process of its own, which blocks its event loop on request.

Usage: `python -m bench.chaos.fleet.victim ROLE ENDPOINT KEYS`, where KEYS is a directory. Each line
on standard input is a number of seconds for which to block. The process ends when standard input
ends. A coordinator prints `bound` once it has bound its endpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
from collections.abc import Awaitable

from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client
from nodes.config.settings import CoordinatorConfig, DraftConfig, EngineSettings, TargetConfig
from nodes.service.roles import link_of, run_coordinator, run_draft, run_target
from nodes.service.runtime import run

BOUND = "bound"
_LIMIT_S = 60.0
_TARGET, _DRAFT = EngineSettings(model="toy:1"), EngineSettings(model="toy:0.8")


def _serving(role: str, endpoint: str, keys: str) -> Awaitable[None]:
    if role == "coordinator":
        config = CoordinatorConfig(listen=endpoint, keys=keys)
        return run_coordinator(config, lambda _endpoint: print(BOUND, flush=True))
    if role == "target":
        return run_target(
            TargetConfig(connect=endpoint, keys=keys, join_timeout_s=_LIMIT_S, engine=_TARGET)
        )
    if role == "draft":
        return run_draft(
            DraftConfig(connect=endpoint, keys=keys, join_timeout_s=_LIMIT_S, engine=_DRAFT)
        )
    return _run_client(endpoint, keys)


async def _run_client(endpoint: str, keys: str) -> None:
    endpoint, own = link_of(endpoint, keys)
    with ZmqContext() as context:
        client = Client(
            context.connect(endpoint, own),
            endpoint=endpoint,
            join_timeout_s=_LIMIT_S,
            rejoins=True,
        )
        await client.run()


async def _serve(role: str, endpoint: str, keys: str) -> None:
    loop = asyncio.get_running_loop()
    serving = asyncio.ensure_future(_serving(role, endpoint, keys))

    def read_commands() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(time.sleep, float(line))
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            loop.call_soon_threadsafe(serving.cancel)

    threading.Thread(target=read_commands, daemon=True).start()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def main() -> None:
    role, endpoint, keys = sys.argv[1:]
    # Here coordinators are lost on purpose: warnings about it would hide the output.
    logging.getLogger("nodes.worker.link").setLevel(logging.ERROR)
    sys.exit(run(lambda: _serve(role, endpoint, keys)))


if __name__ == "__main__":
    main()
