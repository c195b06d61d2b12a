"""Processes of a mesh that are killed under its requests: a stall for each, and no token lost."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Callable
from typing import Any

from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client, RequestFailedError
from nodes.client.generation import GenerateOptions
from nodes.engine.rules import LogitBias, LogitRules
from nodes.messages import FinishedNotice, StartedNotice, TokensNotice
from tests.cli.commands import LIMIT_S, Commands, stopped
from tests.nodes.api.toy_mesh import alone

Eventually = Callable[..., Any]
LISTEN = ("coordinator", "--listen")
ANYWHERE = "tcp://127.0.0.1:*"
# A text takes some ten seconds: most of it is still to come at each kill.
TARGET = ("target", "--model", "toy:1@5ms", "--cells", "65536")
NUM_KILLS = 2
HEARTBEATS = {
    "AIRDRAFT_HEARTBEAT_INTERVAL_S": "0.1",
    "AIRDRAFT_HEARTBEAT_TIMEOUT_S": "3.0",
}
RULES = LogitRules((LogitBias(2, 1.0),), 0.5, 0.1)
REQUESTS = {
    "plain": GenerateOptions(max_tokens=3000, seed=1),
    "warm": GenerateOptions(max_tokens=3000, temperature=0.9, seed=2),
    "stops": GenerateOptions(max_tokens=3000, temperature=0.7, seed=3, stops=(" 1 2 3", "4 5 6")),
    "penalties": GenerateOptions(max_tokens=3000, temperature=0.8, seed=4, rules=RULES),
    "guesses": GenerateOptions(max_tokens=3000, temperature=0.5, seed=5, gamma=6),
    "raw": GenerateOptions(max_tokens=3000, temperature=1.0, seed=6, chat=False),
}


@contextlib.asynccontextmanager
async def client_of(endpoint: str) -> AsyncIterator[Client]:
    with ZmqContext() as context:
        client = Client(context.connect(endpoint, None), endpoint=endpoint, rejoins=True)
        serving = asyncio.create_task(client.run())
        try:
            yield client
        finally:
            client.close()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


class Reader:
    """Reads one answer."""

    def __init__(self, client: Client, prompt: str, options: GenerateOptions) -> None:
        self._events = client.generate(prompt, options)
        self._prompt = prompt
        self._options = options
        self.token_ids: list[int] = []
        self.text = b""
        self.reason = ""
        self.num_starts = 0

    async def read(self) -> None:
        async for event in self._events:
            match event:
                case StartedNotice():
                    self.num_starts += 1
                case TokensNotice():
                    assert event.position == len(self.token_ids)
                    self.token_ids += event.token_ids
                    self.text += event.text
                case FinishedNotice():
                    assert event.num_tokens == len(self.token_ids)
                    self.reason = event.finish_reason

    def has_gone_on(self, known: int) -> bool:
        """Whether it has much more than it had, or all of it."""
        return bool(self.reason) or len(self.token_ids) > known + 100

    def check(self) -> None:
        """It has the target's own text, from one beginning."""
        asked = self._options
        sampling = {"temperature": asked.temperature, "seed": asked.seed, "rules": asked.rules}
        whole = alone(self._prompt, asked.max_tokens, stops=asked.stops, **sampling)
        seen = tuple(self.token_ids), self.text, self.reason, self.num_starts
        assert seen == (whole.token_ids, whole.text, whole.finish_reason, 1), self._prompt


async def nodes_of(client: Client) -> dict[str, int]:
    """Names of the nodes, with the number of their streams."""
    # On a machine that is busy a coordinator may seem lost; questions do not wait for it.
    with contextlib.suppress(RequestFailedError):
        return {node.node: node.num_streams for node in (await client.nodes()).nodes}
    return {}


async def until_nodes(client: Client, names: set[str]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while set(await nodes_of(client)) != names:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_coordinator_that_is_killed(commands: Commands, eventually: Eventually) -> None:
    with contextlib.ExitStack() as stack:

        def listening(where: str) -> tuple[subprocess.Popen[str], str]:
            return stack.enter_context(commands.listening(*LISTEN, where, **HEARTBEATS))

        coordinator, endpoint = listening(ANYWHERE)
        nodes = [
            stack.enter_context(commands.started(*node, "--name", node[0], "--connect", endpoint))
            for node in (TARGET, ("draft", "--model", "toy:0.8", "--cells", "65536"))
        ]
        async with client_of(endpoint) as client:
            await until_nodes(client, {"target", "draft"})
            readers = [Reader(client, prompt, options) for prompt, options in REQUESTS.items()]
            asking = [asyncio.create_task(reader.read()) for reader in readers]
            for _ in range(NUM_KILLS):
                known = [(reader, len(reader.token_ids)) for reader in readers]
                await eventually(lambda known=known: all(r.has_gone_on(n) for r, n in known))
                assert sum(not reader.reason for reader in readers) >= 4, "little was left to do"
                coordinator.kill()
                coordinator.wait()
                coordinator, again = listening(endpoint)
                assert again == endpoint
            await asyncio.gather(*asking)
        for process in (*nodes, coordinator):
            stopped(process)
    for reader in readers:
        reader.check()


async def test_a_target_that_is_killed(commands: Commands, eventually: Eventually) -> None:
    with contextlib.ExitStack() as stack:
        listen = commands.listening(*LISTEN, ANYWHERE)
        coordinator, endpoint = stack.enter_context(listen)
        targets = {
            name: stack.enter_context(
                commands.started(*TARGET, "--name", name, "--connect", endpoint)
            )
            for name in ("one", "other")
        }
        async with client_of(endpoint) as client:
            await until_nodes(client, set(targets))
            options = GenerateOptions(max_tokens=2000, temperature=0.9, seed=5)
            readers = [Reader(client, prompt, options) for prompt in ("a", "b", "c", "d")]
            asking = [asyncio.create_task(reader.read()) for reader in readers]
            # What a target may have died of, as no token of it has come, goes to no other target.
            await eventually(lambda: all(reader.token_ids for reader in readers))
            # Which of the two has them is the planner's business: one may seem faster than it is.
            num_streams = await nodes_of(client)
            killed = max(targets, key=lambda name: num_streams.get(name, 0))
            targets.pop(killed).kill()
            await until_nodes(client, set(targets))
            assert not any(task.done() for task in asking), "nothing was left to be done"
            await asyncio.gather(*asking)
        for process in (*targets.values(), coordinator):
            stopped(process)
    for reader in readers:
        reader.check()
