"""A target node's messages about one pass: what it committed, what it read, what it scored."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from mesh.messages import Hello
from nodes.engine.load import TOY_COSTS
from nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from nodes.messages import CommitReply, PromptScoresNotice
from nodes.target.node import TargetNode
from tests.harness.desk import Desk
from tests.harness.memory_transport import MemoryHub
from tests.nodes.builders import make_spec
from tests.nodes.target.script import alone

LONG = tuple(range(1, 61))


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Desk]:
    hub = MemoryHub()
    desk = Desk(hub.server())
    # So slow that what is asked meanwhile is there when a pass begins.
    model = ToyModel(ToyConfig(pass_s=0.01))
    node = TargetNode(
        hub.client(), model, ToyTokenizer(96), TOY_COSTS, endpoint="memory", node="target"
    )
    task = asyncio.create_task(node.run())
    try:
        async with asyncio.timeout(60):
            await desk.hear(Hello)
            desk.welcome()
            yield desk
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_pass_tells_what_it_committed_and_what_it_read_besides() -> None:
    async with serving() as desk:
        first = make_spec(1, max_tokens=400, ignore_eog=True, num_leased=400)
        desk.say(first)
        desk.say(make_spec(2, prompt=LONG))
        token_ids: tuple[int, ...] = ()
        num_read = 0
        while num_read < len(LONG) - 1:
            reply = await desk.hear(CommitReply)
            assert reply.pass_s >= 0.01
            token_ids += reply.token_ids
            num_read += reply.num_read_tokens
        assert token_ids == alone(first).token_ids[: len(token_ids)]


async def test_scores_of_a_prompt_go_out_before_what_follows_it() -> None:
    spec = make_spec(prompt=LONG, max_tokens=0, scores_prompt=True, num_logprobs=0)
    async with serving() as desk:
        desk.say(spec)
        notices = [await desk.hear(PromptScoresNotice, CommitReply) for _ in range(3)]
    assert sum((notice.scores for notice in notices[:2]), ()) == alone(spec).prompt_scores
    assert notices[2].entries[0].finish_reason == "length"
