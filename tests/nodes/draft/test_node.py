"""A draft node's messages: guesses as they are made, as fast as its link takes them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from airdraft.mesh.messages import Bye, Hello, Ping, Pong
from airdraft.nodes.draft.node import DraftNode
from airdraft.nodes.engine.grammar import Grammars
from airdraft.nodes.engine.load import TOY_COSTS
from airdraft.nodes.engine.rules import Grammar, LogitRules
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.messages import (
    AddedEntry,
    CloseStreamNotice,
    CommitNotice,
    GuessNotice,
    LinkFields,
    StreamFailedNotice,
    StreamReadyNotice,
    with_tokens,
)
from airdraft.nodes.worker.profile import decode_profile
from airdraft.policies.latency import CostTable
from tests.harness.desk import Desk
from tests.harness.memory_transport import MemoryHub
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.draft.script import SAMPLED, make_draft, text_of
from tests.nodes.reference import toy_grammars

# A message of some hundred bytes takes a tenth of a second.
NARROW = LinkFields("cell-a", 8_000.0, 0.0)


@contextlib.asynccontextmanager
async def serving(
    declared: LinkFields | None = NARROW, grammars: Grammars | None = None, **toy: Any
) -> AsyncIterator[Desk]:
    """The coordinator of a draft node that has joined, and was asked to follow a stream."""
    hub = MemoryHub()
    desk = Desk(hub.server())
    state, model = make_draft(grammars, **toy)
    known = model.info, TOY_COSTS
    node = DraftNode(hub.client(), state, *known, endpoint="memory", node="a", declared=declared)
    task = asyncio.create_task(node.run())
    try:
        async with asyncio.timeout(60):
            hello = await desk.hear(Hello)
            assert declared in (decode_profile(hello.profile).link, None)
            desk.welcome()
            desk.say(opening())
            await desk.hear(StreamReadyNotice)
            yield desk
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def opening(**changes: Any) -> Any:
    return make_spec(**{"sampling": SAMPLED, "max_tokens": 200, "ignore_eog": True, **changes})


async def test_it_guesses_what_the_target_will_say_without_being_asked() -> None:
    async with serving() as desk:
        guessed: dict[int, int] = {}
        while len(guessed) < 8:
            notice = await desk.hear(GuessNotice)
            for part, token_ids in with_tokens(notice.parts, notice.token_ids):
                guessed |= dict(enumerate(token_ids, part.start - len(PROMPT)))
        assert [guessed[k] for k in range(8)] == list(text_of()[:8])


async def chains_of_first_guesses(desk: Desk) -> set[int]:
    """The chains of the first notices about a new stream, before any of its tokens is committed."""
    desk.say(opening(stream_id=2))
    chains: list[int] = []
    while len(chains) < 6:
        notice = await desk.hear(GuessNotice)
        chains += [part.chain for part in notice.parts if part.stream_id == 2]
    return set(chains)


async def test_it_guesses_for_other_outcomes_where_bytes_are_free() -> None:
    flat = CostTable((1, 32), (1e-4, 1.1e-4))
    branching: dict[str, Any] = {"num_branches": 8, "costs": flat, "chance": 0.8}
    async with serving(None, **branching) as desk:
        assert len(await chains_of_first_guesses(desk)) > 1
    async with serving(LinkFields("cell-a", 1e9, 0.0), **branching) as desk:
        assert await chains_of_first_guesses(desk) == {1}
    async with serving(None, **branching) as desk:
        # The coordinator knows that others use this link, too.
        desk.say(CommitNotice((), (), 10**9))
        assert await chains_of_first_guesses(desk) == {1}


async def test_a_busy_link_takes_few_large_messages() -> None:
    async with serving() as desk:
        first, second = [await desk.hear(GuessNotice) for _ in range(2)]
        # What is guessed while the first one is on its way goes along in the second.
        assert len(second.token_ids) > len(first.token_ids)


async def test_the_seconds_of_passes_that_only_read_are_told_with_the_next_guesses() -> None:
    async with serving(None, max_batch_tokens=8, pass_s=0.01) as desk:
        desk.say(CloseStreamNotice(1, 1))
        desk.say(opening(stream_id=2, prompt=tuple(range(1, 90))))
        notice = await desk.hear(GuessNotice)
        while notice.parts[0].stream_id != 2:
            notice = await desk.hear(GuessNotice)
        # Of 88 tokens, eight are read in each pass.
        assert notice.draft_us >= 11 * 10_000


async def test_a_draft_node_that_missed_tokens_gives_the_stream_up() -> None:
    async with serving(None) as desk:
        entry = AddedEntry(1, 1, len(PROMPT) + 5, 1)
        desk.say(CommitNotice((entry,), (7,)))
        failed = await desk.hear(StreamFailedNotice)
        assert "the message with tokens 3 to 8 is lost" in failed.reason


async def test_tokens_that_come_while_a_grammar_is_compiled_are_not_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where the target had compiled it sooner, or a long text comes in pieces."""
    goes_on, grammars = threading.Event(), toy_grammars(96)
    compiles = grammars.compile

    def waits(grammar: Grammar) -> None:
        assert goes_on.wait(60)
        compiles(grammar)

    monkeypatch.setattr(grammars, "compile", waits)
    digits = LogitRules(grammar=Grammar("gbnf", 'root ::= (" 1" | " 2")+'))
    length = len(PROMPT)
    async with serving(None, grammars) as desk:
        desk.say(opening(stream_id=2, sampling=Sampling(rules=digits)))
        desk.say(CommitNotice((AddedEntry(2, 1, length, 2),), (1, 2)))
        desk.say(Ping(1, 0))
        await desk.hear(Pong)
        goes_on.set()
        starts: list[int] = []
        while not starts:
            notice = await desk.hear(GuessNotice)
            starts = [part.start for part in notice.parts if part.stream_id == 2]
        assert starts == [length + 2]


async def test_guesses_for_one_coordinator_are_not_sent_to_the_next() -> None:
    async with serving() as desk:
        await desk.hear(GuessNotice)
        desk.say(Bye("restart"))
        desk.epoch += 1
        await desk.hear(Hello)
        desk.welcome()
        desk.say(opening(stream_id=2))
        notice = await desk.hear(GuessNotice)
        assert {part.stream_id for part in notice.parts} == {2}
