"""A short form of `python -m bench chaos rolling`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from bench.chaos.command import RESTARTED
from bench.chaos.rolling.reader import Answer, GivenUpError, Reader
from bench.chaos.rolling.rounds import Rolled, run_rolling

BODY = {"prompt": "hi", "stream": True}


async def test_restarts_of_every_role_cost_no_answer() -> None:
    rolled = await run_rolling(1, RESTARTED, seed=3, num_streams=4)
    assert rolled.faults == []
    assert rolled.turns == dict.fromkeys(RESTARTED, 1)
    assert rolled.num_requests > 0
    assert "0 faults" in str(rolled)


def event(text: str, event_id: str, reason: str | None = None) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": reason}
    return f"id: {event_id}\ndata: {json.dumps({'choices': [choice]})}\n\n".encode()


ERROR = b'data: {"error":{"message":"the gateway is stopping"}}\n\n'
DONE = b"data: [DONE]\n\n"


class Gateways(httpx.AsyncBaseTransport):
    """Two gateways that answer with what is written down, one request after the other."""

    def __init__(self, *answers: int | bytes | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            return httpx.Response(answer, json={"error": {}})
        return httpx.Response(200, content=_parts(answer))


async def _parts(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def ask(gateways: Gateways, deadline_s: float = 5.0) -> Answer:
    async with httpx.AsyncClient(transport=gateways) as http:
        return await Reader(http, BODY).read(["http://a/v1", "http://b/v1"], 0, deadline_s)


async def test_a_client_goes_on_at_the_other_gateway() -> None:
    gateways = Gateways(
        event("one ", "x:1") + event("two ", "x:2") + ERROR,
        httpx.ConnectError("refused"),
        503,
        event("three", "x:3", "stop") + DONE,
    )
    answer = await ask(gateways)
    assert (answer.texts, answer.reasons) == ({0: "one two three"}, {0: "stop"})
    assert answer.was_resumed
    assert answer.outcomes == {"error event": 1, "broken connection": 1, "status 503": 1}
    hosts = [request.url.host for request in gateways.asked]
    assert hosts == ["a", "b", "a", "b"]
    assert len({request.headers["idempotency-key"] for request in gateways.asked}) == 1
    last = [request.headers.get("last-event-id") for request in gateways.asked]
    assert last == [None, "x:2", "x:2", "x:2"]


@pytest.mark.parametrize(
    "answers",
    [
        [422],
        [event("one ", "x:1")],
        [event("one ", "x:1", "stop") + event("two", "x:2") + DONE],
    ],
)
async def test_what_must_not_be_is_a_fault(answers: list[int | bytes]) -> None:
    with pytest.raises(GivenUpError):
        await ask(Gateways(*answers))


async def test_a_request_without_an_answer_is_a_fault() -> None:
    with pytest.raises(GivenUpError, match=r"within 0.05 s: .* status 503"):
        await ask(Gateways(*[503] * 1000), 0.05)


def test_a_text_that_differs_is_a_fault_of_the_role_that_was_restarted() -> None:
    rolled = Rolled(seed=1)
    rolled.add("draft", Answer({0: "one"}, {0: "stop"}, longest_wait_s=0.5), Answer({0: "two"}))
    assert rolled.faults == ["under draft: the text differs from the undisturbed one"]
    assert "draft p50 0.50 s" in str(rolled)
    assert "1 faults" in str(rolled)
