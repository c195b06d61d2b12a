import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airdraft.nodes.api import (
    AnswerTimeoutError,
    ChatMessage,
    ConnectError,
    ConnectionLostError,
    InvalidRequestError,
    RequestError,
    connect,
)
from airdraft.nodes.engine.chat.tools import parse_tools
from airdraft.nodes.engine.toy import ToyTokenizer
from tests.nodes.api.toy_mesh import ToyMesh, alone
from tests.nodes.held import held

Eventually = Callable[..., Any]


async def test_a_completion_is_what_the_model_says_alone(mesh: ToyMesh) -> None:
    async with connect(mesh.endpoint) as client:
        answer = await client.complete("hi", max_tokens=40)
        again = await client.complete("hi", max_tokens=40, temperature=0.9, seed=5, num_choices=2)
    expected = alone("hi", 40)
    assert (answer.text.encode(), answer.token_ids) == (expected.text, expected.token_ids)
    assert (answer.finish_reason, answer.usage.num_tokens) == ("length", 40)
    for index, choice in enumerate(again.choices):
        alike = alone("hi", 40, temperature=0.9, seed=5, choice=index)
        assert choice.token_ids == alike.token_ids
    assert again.seed == 5


async def test_pieces_make_the_text(mesh: ToyMesh) -> None:
    async with connect(mesh.endpoint) as client:
        stream = client.stream("hi", max_tokens=30)
        pieces = [piece async for piece in stream]
        assert stream.completion is not None
        assert "".join(piece.text for piece in pieces) == stream.completion.text
        assert pieces[-1].finish_reason == "length"
        assert stream.seed == stream.completion.seed
        assert [piece async for piece in stream] == []


async def test_token_ids_may_be_those_of_numpy(mesh: ToyMesh) -> None:
    async with connect(mesh.endpoint) as client:
        answer = await client.complete(np.array([7, 8, 9]), max_tokens=5)
        assert answer.usage.num_prompt_tokens == 3
        assert answer.text == (await client.complete([7, 8, 9], max_tokens=5)).text


async def test_messages_may_have_several_forms(mesh: ToyMesh) -> None:
    async with connect(mesh.endpoint) as client:
        message = {"role": "user", "content": "hi"}
        forms: list[Any] = ["hi", [ChatMessage(**message)], [("user", "hi")], [message]]
        answers = [await client.chat(form, max_tokens=5) for form in forms]
        assert len({answer.text for answer in answers}) == 1
        for wrong in ([{"role": "user"}], [("user", 3)], ["x"]):
            with pytest.raises((TypeError, ValueError)):
                await client.chat(wrong)  # type: ignore[arg-type]


async def test_thinking_may_be_switched(mesh: ToyMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[str]()

    def encode_chat(_self: object, _messages: object, *, date: str = "", tools: str) -> list[int]:
        told.append(tools)
        return [1, 2]

    monkeypatch.setattr(ToyTokenizer, "encode_chat", encode_chat)
    async with connect(mesh.endpoint) as client:
        for thinking in (None, False):
            await client.chat("hi", thinking=thinking, max_tokens=1)
        await client.complete("hi", thinking=False, max_tokens=1)
    assert told[0] == ""
    assert parse_tools(told[1]).variables == {"enable_thinking": False, "thinking": False}


async def test_who_leaves_a_stream_cancels_it(mesh: ToyMesh, eventually: Eventually) -> None:
    async with connect(mesh.endpoint) as client:
        async with client.stream("hi", max_tokens=4000) as pieces:
            async for _ in pieces:
                break
        with pytest.raises(RequestError, match="left before its end"):
            await pieces.completed()
        await eventually(lambda: mesh.num_streams() == 0)
        async for _ in client.stream("hi", max_tokens=4000):
            break
        await eventually(lambda: mesh.num_streams() == 0)


async def test_a_stream_may_be_closed_by_another_task_than_the_one_that_reads_it(
    mesh: ToyMesh, eventually: Eventually
) -> None:
    async with connect(mesh.endpoint) as client:
        with held(mesh.model, after_passes=20):
            pieces = client.stream("hi", max_tokens=4000)
            reading = asyncio.create_task(pieces.completed())
            await eventually(lambda: mesh.num_streams() == 1 and pieces.seed is not None)
            await pieces.aclose()
            await pieces.aclose()
            with pytest.raises(RequestError, match="left before its end"):
                await reading
        await eventually(lambda: mesh.num_streams() == 0)


async def test_time_is_bounded(mesh: ToyMesh, eventually: Eventually) -> None:
    async with connect(mesh.endpoint) as client:
        too_late = pytest.raises(AnswerTimeoutError, match=r"no whole answer within 0\.001 s")
        with held(mesh.model), too_late:
            await client.complete("hi", max_tokens=4000, timeout_s=0.001)
        await eventually(lambda: mesh.num_streams() == 0)


async def test_wrong_requests_are_the_callers(mesh: ToyMesh) -> None:
    async with connect(mesh.endpoint) as client:
        wrong: list[dict[str, Any]] = [{"temperature": -1.0}, {"max_tokens": -1}, {"seed": -1}]
        for options in (*wrong, {"max_tokens": 1 << 19}, {"model": "other"}):
            with pytest.raises(InvalidRequestError):
                await client.complete("hi", **options)
        with pytest.raises(InvalidRequestError, match="the prompt is empty"):
            await client.complete("")
        for ids in ([1, "a"], [1.5]):
            with pytest.raises(TypeError):
                await client.complete(ids)  # type: ignore[arg-type]
        # The connection is as good as before.
        assert {node.role for node in await client.nodes()} == {"target", "draft"}
    # An error inside of the block comes out as it is.
    with pytest.raises(KeyError):
        async with connect(mesh.endpoint):
            raise KeyError


@pytest.mark.slow
async def test_an_answer_goes_on_when_its_coordinator_is_back(mesh: ToyMesh) -> None:
    waits: list[None] = []
    async with connect(mesh.endpoint, on_waiting=lambda: waits.append(None)) as client:
        with held(mesh.model, after_passes=20):
            stream = client.stream("hi", max_tokens=3000, temperature=0.7, seed=5)
            first = await anext(stream)
            mesh.say_bye()
        whole = await stream.completed()
        assert whole.text.encode() == alone("hi", 3000, temperature=0.7, seed=5).text
        assert whole.text.startswith(first.text)
        assert len(waits) == 1
        assert {node.role for node in await client.nodes()} == {"target", "draft"}


async def test_a_coordinator_that_lets_one_in_no_more_ends_what_waits_and_what_comes(
    mesh: ToyMesh,
) -> None:
    async with connect(mesh.endpoint) as client:
        with held(mesh.model, after_passes=20):
            stream = client.stream("hi", max_tokens=4000)
            await anext(stream)
            mesh.refuse_all("go away")
        with pytest.raises(ConnectionLostError, match="go away"):
            await stream.completed()
        with pytest.raises(ConnectionLostError):
            await client.complete("hi")
        with pytest.raises(ConnectionLostError):
            await client.nodes()


async def test_what_is_used_after_its_connection_was_closed_says_so(mesh: ToyMesh) -> None:
    async with connect(mesh.endpoint) as client:
        streams = [client.stream("hi", max_tokens=4000) for _ in range(2)]
        for stream in streams:
            await anext(stream)
    with pytest.raises(ConnectionLostError, match="the client was closed"):
        await streams[0].completed()
    await streams[1].aclose()
    with pytest.raises(ConnectionLostError, match="the client was closed"):
        await client.complete("hi")


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("tcp://127.0.0.1:9", "no coordinator answered"),
        ("127.0.0.1:9", "endpoint"),
        ("tcp://192.0.2.1:7411", "need keys"),
    ],
)
async def test_without_a_connection_it_is_said_why(
    tmp_path: Path, endpoint: str, says: str
) -> None:
    with pytest.raises(ConnectError, match=says):
        async with connect(endpoint, key=tmp_path, timeout_s=0.2):
            pass


async def test_on_a_shared_medium_long_prompts_go_in_pieces(mesh: ToyMesh) -> None:
    text = "a long text " * 250
    async with connect(mesh.endpoint, air="cell-a", rate_kbps=400) as client:
        answer = await client.complete(text, max_tokens=2)
    assert answer.token_ids == alone(text, 2).token_ids
    assert mesh.num_received("UploadPiece") >= 3
    with pytest.raises(ConnectError, match="rate_kbps"):
        async with connect(mesh.endpoint, rate_kbps=-1):
            pass
