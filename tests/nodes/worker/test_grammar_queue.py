"""Grammars are compiled beside the engine; whoever has none does not wait for them."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from airdraft.nodes.engine.grammar import GrammarError, Grammars
from airdraft.nodes.engine.rules import Grammar, LogitRules
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.messages import OpenStreamRequest, StreamFailedNotice
from airdraft.nodes.worker.grammar_queue import GrammarQueue

Eventually = Callable[..., "asyncio.Future[None]"]


class SlowGrammars:
    """Compiles when it is told to."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.compiled: list[str] = []
        self.num_begun = 0

    def knows(self, grammar: Grammar) -> bool:
        return grammar.text in self.compiled

    def compile(self, grammar: Grammar) -> None:
        self.num_begun += 1
        assert self.may_go_on.wait(60.0)
        self.compiled.append(grammar.text)
        if grammar.text == "bad":
            raise GrammarError("bad")
        if grammar.text == "held":
            raise GrammarError("the machine was held", is_request_bad=False)


def request(
    stream_id: int, text: str = "", generation: int = 1, owner: str = "x"
) -> OpenStreamRequest:
    grammar = Grammar("gbnf", text) if text else Grammar()
    sampling = Sampling(rules=LogitRules(grammar=grammar))
    return OpenStreamRequest(stream_id, generation, owner, sampling, 4, (), False, 1, (1,))


class Setting:
    def __init__(self) -> None:
        self.grammars = SlowGrammars()
        self.opened: list[tuple[int, int]] = []
        self.refused: list[StreamFailedNotice] = []
        self.opening = GrammarQueue(
            cast(Grammars, self.grammars),
            lambda r: self.opened.append((r.stream_id, r.generation)),
            self.refused.append,
        )

    async def __aenter__(self) -> Setting:
        self.running = asyncio.create_task(self.opening.run())
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.grammars.may_go_on.set()
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


async def test_a_stream_with_a_grammar_waits_for_it_and_others_do_not(
    eventually: Eventually,
) -> None:
    async with Setting() as setting:
        setting.opening.open(request(1, "slow"))
        setting.opening.open(request(2))
        assert setting.opened == [(2, 1)]
        setting.grammars.may_go_on.set()
        await eventually(lambda: setting.opened == [(2, 1), (1, 1)])
        assert setting.opening.num_compiled == 1
        # Known by now.
        setting.opening.open(request(3, "slow"))
        assert setting.opened[-1] == (3, 1)


async def test_a_grammar_that_cannot_be_compiled_is_not_tried_again_by_the_engine(
    eventually: Eventually,
) -> None:
    """A failure of this machine is not remembered: to find it again, the engine's thread, and so
    all streams of the node, would wait for as long as the first time."""
    async with Setting() as setting:
        setting.grammars.may_go_on.set()
        setting.opening.open(request(1, "bad"))
        setting.opening.open(request(2, "held", generation=3))
        setting.opening.open(request(4, "good"))
        await eventually(lambda: setting.opened == [(4, 1)])
        assert setting.refused == [
            StreamFailedNotice(1, 1, "bad", "bad_request"),
            StreamFailedNotice(2, 3, "the machine was held", "unavailable"),
        ]


async def test_a_stream_closed_or_replaced_meanwhile_is_not_opened(eventually: Eventually) -> None:
    async with Setting() as setting:
        for stream_id in (1, 2, 3):
            setting.opening.open(request(stream_id, f"slow {stream_id}"))
        setting.opening.close(1, 1)
        # Of another placement, and of a stream that does not wait.
        setting.opening.close(2, 7)
        setting.opening.close(9, 1)
        setting.opening.open(request(3, "slow 3", generation=2))
        setting.grammars.may_go_on.set()
        await eventually(lambda: len(setting.opened) == 2)
        assert setting.opened == [(2, 1), (3, 2)]


async def test_a_grammar_whose_stream_is_closed_before_its_turn_is_not_compiled(
    eventually: Eventually,
) -> None:
    async with Setting() as setting:
        setting.opening.open(request(0, "slow"))
        await eventually(lambda: setting.grammars.num_begun == 1)
        for stream_id in range(1, 100):
            setting.opening.open(request(stream_id, f"slow {stream_id}"))
            setting.opening.close(stream_id, 1)
        setting.grammars.may_go_on.set()
        await eventually(lambda: setting.opened == [(0, 1)])
        assert setting.grammars.num_begun == 1


async def test_owners_take_turns(eventually: Eventually) -> None:
    async with Setting() as setting:
        for stream_id in range(4):
            setting.opening.open(request(stream_id, f"of the first {stream_id}", owner="first"))
        await eventually(lambda: setting.grammars.num_begun == 1)
        setting.opening.open(request(7, "of the second", owner="second"))
        setting.grammars.may_go_on.set()
        await eventually(lambda: len(setting.opened) == 5)
        assert [stream_id for stream_id, _ in setting.opened] == [0, 7, 1, 2, 3]


async def test_a_coordinator_that_comes_back_knows_none_of_those_that_wait(
    eventually: Eventually,
) -> None:
    async with Setting() as setting:
        setting.opening.open(request(1, "slow"))
        setting.opening.forget_all()
        setting.opening.open(request(2, "other"))
        setting.grammars.may_go_on.set()
        await eventually(lambda: setting.opened == [(2, 1)])


async def test_an_engine_without_grammars_is_asked_at_once() -> None:
    opened: list[OpenStreamRequest] = []
    GrammarQueue(None, opened.append, refuse=lambda _: None).open(request(1, "any"))
    assert len(opened) == 1


async def test_a_node_goes_on_when_no_thread_can_be_started(
    eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with Setting() as made:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            made.opening.open(request(1, "a"))
            await eventually(lambda: made.opened == [(1, 1)])
        assert not made.running.done()


async def test_a_stop_waits_for_the_grammar_that_is_compiled_and_logs_no_fault_of_it(
    eventually: Eventually,
) -> None:
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    async with Setting() as setting:
        setting.opening.open(request(1, "bad"))
        await eventually(lambda: setting.grammars.num_begun == 1)
        # It is cancelled before the grammar turns out to be bad.
        setting.running.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not setting.running.done()
        setting.grammars.may_go_on.set()
        await asyncio.wait([setting.running])
        assert setting.grammars.compiled == ["bad"]
        # An error that nobody has read is logged when its task is freed.
        setting.running = asyncio.create_task(asyncio.sleep(0))
        gc.collect()
    assert faults == []
