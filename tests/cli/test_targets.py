"""Two target processes, one of which is killed in the middle of its work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions
from nodes.engine.sampling import Sampling
from nodes.engine.toy import ToyConfig, ToyTokenizer
from nodes.messages import FinishedNotice, TokensNotice
from tests.cli.commands import LIMIT_S, Commands
from tests.nodes.reference import reference

TEXTS = ("one", "two", "three", "four")
LONG = 2000
# A text takes ten seconds: there is something left to be done when the kill comes.
MODEL = "toy:1@5ms"


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
        client = Client(context.connect(endpoint, None), endpoint=endpoint)
        serving = asyncio.create_task(client.run())
        try:
            yield client
        finally:
            client.close()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


async def until_nodes(client: Client, names: set[str]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while True:
            if {node.node for node in (await client.nodes()).nodes} == names:
                return
            await asyncio.sleep(0.01)


async def busiest(client: Client) -> str:
    """The name of the node with the most streams, as soon as there is a stream."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            node = max((await client.nodes()).nodes, key=lambda node: node.num_streams)
            if node.num_streams:
                return node.node
            await asyncio.sleep(0.01)


async def ask(
    client: Client, prompt: str, options: GenerateOptions, begun: asyncio.Event
) -> tuple[list[int], bytes]:
    """begun: set when the first token has come."""
    token_ids: list[int] = []
    text = b""
    async for event in client.generate(prompt, options):
        match event:
            case TokensNotice():
                assert event.position == len(token_ids)
                token_ids += event.token_ids
                text += event.text
                begun.set()
            case FinishedNotice():
                assert event.num_tokens == len(token_ids)
    return token_ids, text


async def test_a_target_that_is_killed_costs_a_stall_and_no_token(commands: Commands) -> None:
    with contextlib.ExitStack() as stack:
        listen = ("coordinator", "--listen", "tcp://127.0.0.1:*")
        coordinator = stack.enter_context(commands.started(*listen))
        assert coordinator.stdout is not None
        endpoint = coordinator.stdout.readline().removeprefix("listening on ").strip()
        engine = ("--connect", endpoint, "--model", MODEL, "--cells", "65536")
        targets = {
            name: stack.enter_context(commands.started("target", *engine, "--name", name))
            for name in ("one", "other")
        }
        async with client_of(endpoint) as client:
            await until_nodes(client, set(targets))
            options = GenerateOptions(max_tokens=LONG, temperature=0.9, seed=5)
            begun = [asyncio.Event() for _ in TEXTS]
            asking = [
                asyncio.create_task(ask(client, text, options, first))
                for text, first in zip(TEXTS, begun, strict=True)
            ]
            # What a target may have died of, as no token of it has come, goes to no other target.
            async with asyncio.timeout(LIMIT_S):
                await asyncio.gather(*(first.wait() for first in begun))
            # Which of the two has them is the planner's business: one may seem faster than it is.
            killed = await busiest(client)
            targets.pop(killed).kill()
            await until_nodes(client, set(targets))
            assert not any(task.done() for task in asking), "nothing was left to be done"
            answers = await asyncio.gather(*asking)
        for process in (*targets.values(), coordinator):
            process.terminate()
            process.communicate(timeout=LIMIT_S)
    config = ToyConfig(num_cells=65536)
    for text, (token_ids, shown) in zip(TEXTS, answers, strict=True):
        ids = ToyTokenizer(config.num_vocab).encode(text)
        alone = reference(config, ids, Sampling(temperature=0.9, seed=5), max_tokens=LONG)
        assert (tuple(token_ids), shown) == (alone.token_ids, alone.text)
