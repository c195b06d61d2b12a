"""A coordinator's process that is killed under its requests, and started again."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Callable
from typing import Any

from nodes.api import Stream, connect
from tests.cli.commands import Commands, stopped
from tests.nodes.api.toy_mesh import alone

Eventually = Callable[..., Any]
# A text takes some ten seconds: most of it is still to come at each kill.
TARGET = ("target", "--model", "toy:1@5ms", "--cells", "65536")
DRAFT = ("draft", "--model", "toy:0.8", "--cells", "65536")
NUM_KILLS = 2
MAX_TOKENS = 3000
HEARTBEATS = {
    "AIRDRAFT_HEARTBEAT_INTERVAL_S": "0.1",
    "AIRDRAFT_HEARTBEAT_TIMEOUT_S": "3.0",
}
REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {"temperature": 0.0, "seed": 1},
    "warm": {"temperature": 0.9, "seed": 2},
    "stops": {"temperature": 0.7, "seed": 3, "stops": (" 1 2 3", "4 5 6")},
    "more": {"temperature": 0.8, "seed": 4},
    "hot": {"temperature": 1.0, "seed": 5},
}


class Reader:
    """Reads one answer."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.token_ids: list[int] = []

    async def read(self) -> None:
        async for piece in self.stream:
            self.token_ids += piece.token_ids

    def has_gone_on(self, known: int) -> bool:
        """Whether it has much more than it had, or all of it."""
        return self.stream.completion is not None or len(self.token_ids) > known + 100


async def test_it_costs_stalls_and_no_token(commands: Commands, eventually: Eventually) -> None:
    with contextlib.ExitStack() as stack:

        def listening(where: str) -> tuple[subprocess.Popen[str], str]:
            listen = ("coordinator", "--listen", where)
            return stack.enter_context(commands.listening(*listen, **HEARTBEATS))

        coordinator, endpoint = listening("tcp://127.0.0.1:*")
        nodes = [
            stack.enter_context(commands.started(*node, "--connect", endpoint))
            for node in (TARGET, DRAFT)
        ]
        async with connect(endpoint, key=commands.tmp) as client:
            while len(await client.nodes()) < len(nodes):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            readers = [
                Reader(client.stream(prompt, max_tokens=MAX_TOKENS, gamma=6, **options))
                for prompt, options in REQUESTS.items()
            ]
            reading = asyncio.gather(*(reader.read() for reader in readers))
            for _ in range(NUM_KILLS):
                known = [(reader, len(reader.token_ids)) for reader in readers]
                await eventually(lambda known=known: all(r.has_gone_on(n) for r, n in known))
                assert sum(reader.stream.completion is None for reader in readers) >= 4
                coordinator.kill()
                coordinator.wait()
                coordinator, again = listening(endpoint)
                assert again == endpoint
            await reading
        for process in (*nodes, coordinator):
            stopped(process)
    for reader, (prompt, options) in zip(readers, REQUESTS.items(), strict=True):
        whole, found = alone(prompt, MAX_TOKENS, **options), reader.stream.completion
        assert found is not None
        assert tuple(reader.token_ids) == found.token_ids == whole.token_ids
        assert (found.text.encode(), found.finish_reason) == (whole.text, whole.finish_reason)
