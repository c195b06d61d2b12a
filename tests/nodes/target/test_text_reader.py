"""Texts are tokenized off the event loop, one at a time, and for the membership that asked."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from functools import partial

import pytest

from airdraft.nodes.engine.protocol import InvalidInputError, Message
from airdraft.nodes.engine.toy import ToyTokenizer
from airdraft.nodes.messages import MAX_PROMPT_TOKENS, ChatMessage, TokenizeReply, TokenizeRequest
from airdraft.nodes.target.text_reader import MAX_WAITING, TextReader, tokenize

IDS = tuple(ToyTokenizer(96).encode("hi"))


class HeldTokenizer(ToyTokenizer):
    """Waits in its thread until it is let go. errors: what it raises first, instead of ids."""

    def __init__(self) -> None:
        super().__init__(96)
        self.may_go = threading.Event()
        self.texts: list[str] = []
        self.errors: list[Exception] = []

    def encode(self, text: str) -> list[int]:
        self.texts.append(text)
        assert self.may_go.wait(60)
        if self.errors:
            raise self.errors.pop()
        return super().encode(text)


class Scene:
    def __init__(self) -> None:
        self.tokenizer = HeldTokenizer()
        self.replies: list[TokenizeReply] = []
        self.reader = TextReader(partial(tokenize, self.tokenizer), self.replies.append)
        self.task = asyncio.create_task(self.reader.run())

    def ask(self, *numbers: int) -> None:
        for number in numbers:
            self.reader.ask(TokenizeRequest(number, "hi"))


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    yield made
    made.tokenizer.may_go.set()
    made.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await made.task


async def test_the_event_loop_goes_on_and_texts_are_read_one_at_a_time(scene, eventually):
    scene.ask(1, 2)
    await eventually(lambda: scene.tokenizer.texts)
    # The loop runs, though the thread waits.
    await asyncio.sleep(0)
    assert (scene.replies, len(scene.tokenizer.texts)) == ([], 1)
    scene.tokenizer.may_go.set()
    await eventually(lambda: len(scene.replies) == 2)
    assert scene.replies == [TokenizeReply(n, "", IDS) for n in (1, 2)]


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("no thread")])
async def test_what_this_machine_lacks_for_a_moment_ends_nothing(
    scene, eventually, error: Exception
):
    """Who asked asks again; the node and its streams go on."""
    scene.tokenizer.errors.append(error)
    scene.tokenizer.may_go.set()
    scene.ask(1, 2)
    await eventually(lambda: scene.replies)
    assert scene.replies == [TokenizeReply(2, "", IDS)]


async def test_a_text_that_is_asked_for_again_meanwhile_is_read_once(scene, eventually):
    scene.ask(1, 2)
    await eventually(lambda: scene.tokenizer.texts)
    scene.ask(1, 2)
    scene.tokenizer.may_go.set()
    scene.ask(3)
    await eventually(lambda: scene.replies and scene.replies[-1].request_id == 3)
    assert [reply.request_id for reply in scene.replies] == [1, 2, 3]


async def test_too_many_texts_are_refused_at_once(scene, eventually):
    scene.ask(0)
    await eventually(lambda: scene.tokenizer.texts)
    scene.ask(*range(1, MAX_WAITING + 2))
    (refused,) = scene.replies
    assert refused.request_id == MAX_WAITING + 1
    assert "try again later" in refused.error


async def test_what_another_membership_asked_is_not_answered(scene, eventually):
    scene.ask(1, 2)
    await eventually(lambda: scene.tokenizer.texts)
    scene.reader.forget_all()
    scene.ask(1)
    scene.tokenizer.may_go.set()
    await eventually(lambda: len(scene.tokenizer.texts) == 2 and scene.replies)
    assert scene.replies == [TokenizeReply(1, "", IDS)]


async def test_at_the_end_the_text_under_way_is_finished_first(scene, eventually):
    scene.ask(1)
    await eventually(lambda: scene.tokenizer.texts)
    scene.task.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not scene.task.done()
    scene.tokenizer.may_go.set()
    with pytest.raises(asyncio.CancelledError):
        await scene.task


class Unwilling(ToyTokenizer):
    def encode_chat(
        self, messages: Sequence[Message], *, date: str = "", tools: str = ""
    ) -> list[int]:
        if len(messages) > 1:
            raise InvalidInputError("the template refuses: " + "x" * 2000)
        return [1] * (MAX_PROMPT_TOKENS + 1)


def test_why_there_are_no_ids():
    hello = ChatMessage("user", "hi")
    refused = tokenize(Unwilling(96), TokenizeRequest(1, "", (hello, hello)))
    assert (len(refused.error), refused.prompt_token_ids) == (1024, ())
    assert "limit 131072" in tokenize(Unwilling(96), TokenizeRequest(1, "", (hello,))).error
    assert tokenize(ToyTokenizer(96), TokenizeRequest(1, "", (hello,))).prompt_token_ids == IDS
