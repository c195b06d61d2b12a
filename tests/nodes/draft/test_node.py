"""A draft node waits for its turn on the air, and not a moment if it is late for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from mesh.codec import decode, encode
from mesh.memory_transport import MemoryHub, MemoryServer
from mesh.messages import Bye, Hello, Welcome
from mesh.pacing import DEPTH_BYTES
from nodes.draft.node import DraftNode
from nodes.draft.state import ModelDrafter
from nodes.engine.load import TOY_COSTS
from nodes.engine.toy import ToyModel
from nodes.messages import DraftEntry, DraftReply, DraftRequest, LinkFields, StreamReadyNotice
from nodes.profile import decode_profile
from nodes.scheduler.instructions import open_request
from tests.nodes.builders import PROMPT, make_spec

Eventually = Callable[..., "asyncio.Future[None]"]

HOLD_S = 0.05
PACED_BPS = 20_000
DECLARED = LinkFields("cell-a", 1e6, 0.0)


async def hear(server: MemoryServer, kind: type) -> Any:
    while True:
        received = await server.recv()
        message = decode(received.frames).message
        if isinstance(message, kind):
            return received.peer, message


async def test_an_answer_is_held_until_its_turn() -> None:
    hub, model = MemoryHub(), ToyModel()
    server = hub.server()
    node = DraftNode(
        hub.client(),
        ModelDrafter(model),
        model.info,
        TOY_COSTS,
        endpoint="memory",
        node="a",
        declared=DECLARED,
    )
    task = asyncio.create_task(node.run())
    try:
        async with asyncio.timeout(60):
            peer, hello = await hear(server, Hello)
            assert decode_profile(hello.profile).link == DECLARED

            def say(message: Any) -> None:
                server.send(peer, encode(message, cluster="c", epoch=1))

            say(Welcome("a", "c", 1, 1.0, 5.0, False))
            say(open_request(make_spec()))
            await hear(server, StreamReadyNotice)
            loop = asyncio.get_running_loop()
            for round_id, hold_s in ((1, HOLD_S), (2, 0.0)):
                entry = DraftEntry(1, 1, len(PROMPT), 0, 3, 0)
                asked = loop.time()
                say(DraftRequest(round_id, (entry,), (), hold_us=round(hold_s * 1e6)))
                _, reply = await hear(server, DraftReply)
                assert reply.round == round_id
                assert loop.time() - asked >= hold_s
            # Small answers go at once until a frame's worth has gone; then they have to be earned.
            entry = DraftEntry(1, 1, len(PROMPT), 0, 8, 0)
            size, round_id, began = 0, 3, loop.time()
            while size < DEPTH_BYTES + 200:
                say(DraftRequest(round_id, (entry,), (), rate_bps=PACED_BPS))
                _, reply = await hear(server, DraftReply)
                size += sum(map(len, encode(reply, cluster="c", epoch=1)))
                round_id += 1
            assert loop.time() - began >= 8 * (size - DEPTH_BYTES) / PACED_BPS
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_an_answer_that_is_held_is_not_for_the_next_coordinator(
    eventually: Eventually,
) -> None:
    hub, model = MemoryHub(), ToyModel()
    server = hub.server()
    node = DraftNode(
        hub.client(), ModelDrafter(model), model.info, TOY_COSTS, endpoint="memory", node="a"
    )
    task = asyncio.create_task(node.run())
    try:
        async with asyncio.timeout(60):
            peer, _ = await hear(server, Hello)

            def say(message: Any, epoch: int) -> None:
                server.send(peer, encode(message, cluster="c", epoch=epoch))

            say(Welcome("a", "c", 1, 1.0, 5.0, False), 1)
            say(open_request(make_spec()), 1)
            await hear(server, StreamReadyNotice)
            entry = DraftEntry(1, 1, len(PROMPT), 0, 3, 0)
            say(DraftRequest(1, (entry,), (), hold_us=round(HOLD_S * 1e6)), 1)
            await eventually(lambda: node._held)
            say(Bye("restart"), 1)
            await hear(server, Hello)
            say(Welcome("a", "c", 2, 1.0, 5.0, False), 2)
            say(open_request(make_spec()), 2)
            await hear(server, StreamReadyNotice)
            assert not node._held
            say(DraftRequest(2, (entry,), (), hold_us=round(2 * HOLD_S * 1e6)), 2)
            _, reply = await hear(server, DraftReply)
            assert reply.round == 2
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_node_that_stops_answers_the_round_in_hand_first(eventually: Eventually) -> None:
    hub, model = MemoryHub(), ToyModel()
    server = hub.server()
    node = DraftNode(
        hub.client(), ModelDrafter(model), model.info, TOY_COSTS, endpoint="memory", node="a"
    )
    task = asyncio.create_task(node.run())
    async with asyncio.timeout(60):
        peer, _ = await hear(server, Hello)

        def say(message: Any) -> None:
            server.send(peer, encode(message, cluster="c", epoch=1))

        say(Welcome("a", "c", 1, 1.0, 5.0, False))
        say(open_request(make_spec()))
        await hear(server, StreamReadyNotice)
        entry = DraftEntry(1, 1, len(PROMPT), 0, 3, 0)
        say(DraftRequest(1, (entry,), (), hold_us=round(HOLD_S * 1e6)))
        # Guessed, but its turn on the air is to come.
        await eventually(lambda: node._held)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        kinds = []
        while not kinds or kinds[-1] is not Bye:
            received = await server.recv()
            kinds.append(type(decode(received.frames).message))
    assert kinds[-2:] == [DraftReply, Bye]
