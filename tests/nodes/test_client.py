"""What a client does while there is no coordinator; the rest is tested on a mesh."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mesh.memory_transport import MemoryHub
from mesh.messages import Bye, Hello, Welcome
from nodes.client import Client, GenerateOptions
from nodes.messages import NodesReply, NodesRequest, SubmitRequest, TokensNotice
from tests.nodes.test_link import Desk

Eventually = Callable[..., "asyncio.Future[None]"]


async def test_what_is_asked_while_there_is_no_coordinator_waits_for_the_next(
    eventually: Eventually,
) -> None:
    hub = MemoryHub()
    client, desk = Client(hub.client(), endpoint="memory", rejoins=True), Desk(hub.server())
    running = asyncio.create_task(client.run())
    try:
        await desk.hear(Hello)
        desk.welcome()
        await eventually(lambda: client.is_joined)
        desk.say(Bye("restart"))
        await eventually(lambda: not client.is_joined)
        asking = asyncio.create_task(client.nodes())
        await desk.hear(Hello)
        desk.say(Welcome("n", "test", 6, 0.02, 5.0, False))
        request = await desk.hear(NodesRequest)
        desk.say(NodesReply(request.request_id, ()), epoch=6)
        assert await asking == NodesReply(request.request_id, ())
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_others_have_their_turns_while_much_is_read_that_has_come_already(
    eventually: Eventually,
) -> None:
    hub = MemoryHub()
    client, desk = Client(hub.client(), endpoint="memory"), Desk(hub.server())
    running = asyncio.create_task(client.run())
    seen: list[int] = []
    turns: list[int] = []

    async def read() -> None:
        async for event in client.generate("hi", GenerateOptions()):
            assert isinstance(event, TokensNotice)
            seen.append(event.position)

    def turn() -> None:
        turns.append(len(seen))
        if len(seen) < 50:
            loop.call_soon(turn)

    loop = asyncio.get_running_loop()
    reading = asyncio.create_task(read())
    try:
        await desk.hear(Hello)
        desk.welcome()
        submit = await desk.hear(SubmitRequest)
        for position in range(50):
            client.on_message(TokensNotice(submit.request_id, 0, position, b"x", (7,)))
        loop.call_soon(turn)
        await eventually(lambda: len(seen) == 50)
        assert len(set(turns)) > 25
    finally:
        for task in (reading, running):
            task.cancel()
        await asyncio.gather(reading, running, return_exceptions=True)
