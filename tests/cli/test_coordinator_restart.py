"""A coordinator's process that is killed under its requests, and started again."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client, RequestFailedError
from nodes.client.generation import GenerateOptions
from nodes.engine.rules import LogitBias, LogitRules
from nodes.engine.sampling import Sampling
from nodes.engine.toy import ToyConfig, ToyTokenizer
from nodes.messages import FinishedNotice, StartedNotice, TokensNotice
from tests.cli.commands import LIMIT_S, Commands
from tests.nodes.reference import Reference, reference

Eventually = Callable[..., Any]
CELLS = 65_536
LONG = 3000
# A text takes some ten seconds: most of it is still to come at each kill.
TARGET = "toy:1@5ms"
NUM_KILLS = 2
HEARTBEATS = {
    "AIRDRAFT_HEARTBEAT_INTERVAL_S": "0.1",
    "AIRDRAFT_HEARTBEAT_TIMEOUT_S": "3.0",
}
RULES = LogitRules((LogitBias(2, 1.0),), 0.5, 0.1)
REQUESTS = {
    "plain": GenerateOptions(max_tokens=LONG, seed=1),
    "warm": GenerateOptions(max_tokens=LONG, temperature=0.9, seed=2),
    "stops": GenerateOptions(max_tokens=LONG, temperature=0.7, seed=3, stops=(" 1 2 3", "4 5 6")),
    "penalties": GenerateOptions(max_tokens=LONG, temperature=0.8, seed=4, rules=RULES),
    "guesses": GenerateOptions(max_tokens=LONG, temperature=0.5, seed=5, gamma=6),
    "raw": GenerateOptions(max_tokens=LONG, temperature=1.0, seed=6, chat=False),
}


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    made = Commands(tmp_path)
    try:
        yield made
        assert made.alive() == {}
    finally:
        made.kill_all()


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


def started(
    commands: Commands, stack: contextlib.ExitStack, listen: str
) -> tuple[str, subprocess.Popen[str]]:
    process = stack.enter_context(commands.started("coordinator", "--listen", listen, **HEARTBEATS))
    assert process.stdout is not None
    return process.stdout.readline().removeprefix("listening on ").strip(), process


async def until_nodes(client: Client, count: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        while True:
            # On a machine that is busy a coordinator may seem lost; questions do not wait for it.
            with contextlib.suppress(RequestFailedError):
                if len((await client.nodes()).nodes) == count:
                    return
            await asyncio.sleep(0.01)


def have_gone_on(readers: list[Reader], known: list[int]) -> bool:
    """Whether each has much more than it had, or all of it."""
    counts = [len(reader.token_ids) for reader in readers]
    return all(
        reader.reason or count > before + 100
        for reader, count, before in zip(readers, counts, known, strict=True)
    )


def alone(prompt: str, options: GenerateOptions) -> Reference:
    config = ToyConfig(num_cells=CELLS)
    sampling = Sampling(
        temperature=options.temperature, seed=options.seed or 0, rules=options.rules
    )
    ids = ToyTokenizer(config.num_vocab).encode(prompt)
    return reference(config, ids, sampling, max_tokens=options.max_tokens, stops=options.stops)


async def test_a_coordinator_that_is_killed_costs_stalls_and_no_token(
    commands: Commands, eventually: Eventually
) -> None:
    with contextlib.ExitStack() as stack:
        endpoint, coordinator = started(commands, stack, "tcp://127.0.0.1:*")
        engine = ("--connect", endpoint, "--cells", str(CELLS))
        nodes = [
            stack.enter_context(commands.started(role, *engine, "--model", model))
            for role, model in (("target", TARGET), ("draft", "toy:0.8"))
        ]
        async with client_of(endpoint) as client:
            await until_nodes(client, len(nodes))
            readers = [Reader(client, prompt, options) for prompt, options in REQUESTS.items()]
            asking = [asyncio.create_task(reader.read()) for reader in readers]
            for _ in range(NUM_KILLS):
                known = [len(reader.token_ids) for reader in readers]
                await eventually(lambda known=known: have_gone_on(readers, known))
                assert sum(not reader.reason for reader in readers) >= 4, "little was left to do"
                coordinator.kill()
                coordinator.wait()
                again, coordinator = started(commands, stack, endpoint)
                assert again == endpoint
            await asyncio.gather(*asking)
        for process in (*nodes, coordinator):
            process.terminate()
            process.communicate(timeout=LIMIT_S)
    assert {reader.num_starts for reader in readers} == {1}
    for reader, (prompt, options) in zip(readers, REQUESTS.items(), strict=True):
        whole = alone(prompt, options)
        seen = tuple(reader.token_ids), reader.text, reader.reason
        assert seen == (whole.token_ids, whole.text, whole.finish_reason), prompt
