"""One role in a process of its own, which blocks its event loop when told to.

`python -m bench.chaos.victim ROLE ENDPOINT KEYS`; KEYS is a directory. A line on standard input is
how many seconds to block for; its end is the process's. A coordinator prints that it is bound.
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
from nodes.client import Client
from nodes.config import CoordinatorConfig, DraftConfig, EngineSettings, TargetConfig
from nodes.roles import link_of, run_coordinator, run_draft, run_target
from nodes.runtime import run

BOUND = "bound"
_JOIN_LIMIT_S = 60.0
_TARGET, _DRAFT = EngineSettings(model="toy:1"), EngineSettings(model="toy:0.8")


def _serving(role: str, endpoint: str, keys: str) -> Awaitable[None]:
    where = {"connect": endpoint, "keys": keys}
    if role == "coordinator":
        config = CoordinatorConfig(listen=endpoint, keys=keys)
        return run_coordinator(config, lambda _endpoint: print(BOUND, flush=True))
    if role == "target":
        target = TargetConfig(**where, name=role, join_timeout_s=_JOIN_LIMIT_S, engine=_TARGET)
        return run_target(target)
    if role == "draft":
        draft = DraftConfig(**where, name=role, join_timeout_s=_JOIN_LIMIT_S, engine=_DRAFT)
        return run_draft(draft)
    return _run_client(endpoint, keys)


async def _run_client(endpoint: str, keys: str) -> None:
    endpoint, own = link_of(endpoint, keys)
    with ZmqContext() as context:
        client = Client(
            context.connect(endpoint, own),
            endpoint=endpoint,
            join_timeout_s=_JOIN_LIMIT_S,
            rejoins=True,
        )
        await client.run()


async def _serve(role: str, endpoint: str, keys: str) -> None:
    loop = asyncio.get_running_loop()
    serving = asyncio.ensure_future(_serving(role, endpoint, keys))

    def obey() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(time.sleep, float(line))
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            loop.call_soon_threadsafe(serving.cancel)

    threading.Thread(target=obey, daemon=True).start()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def main() -> None:
    role, endpoint, keys = sys.argv[1:]
    # That the coordinator is lost is no news here.
    logging.getLogger("nodes.link").setLevel(logging.ERROR)
    sys.exit(run(lambda: _serve(role, endpoint, keys)))


if __name__ == "__main__":
    main()
