"""A short form of `python -m bench chaos rolling`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from bench.chaos.command import RESTARTED
from bench.chaos.kills.backdrop import Run
from bench.chaos.kills.resuming import Reader
from bench.chaos.kills.rolling import run_rolling
from bench.harness.cases import Case, Expected
from bench.harness.history import Record, faults_of
from nodes.client.generation import GenerateOptions

CASE = Case("hi", GenerateOptions(), (Expected((1, 2, 3), b"one two three", "stop"),))


async def test_restarts_of_every_role_cost_no_answer(tmp_path: Path) -> None:
    tally = await run_rolling(Run(seed=3, num_streams=4, folder=tmp_path), 1, RESTARTED)
    assert tally.faults == [], str(tally)
    assert {f"{role} restarted" for role in RESTARTED} <= tally.disturbances.keys()
    assert tally.num_requests > 0
    assert "by restarted role: " in str(tally)


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


async def ask(gateways: Gateways, deadline_s: float = 5.0) -> tuple[Record, Reader]:
    async with httpx.AsyncClient(transport=gateways) as http:
        reader = Reader(http, 1, CASE, deadline_s, is_stream=True)
        return await reader.read(["http://a/v1", "http://b/v1"], 0), reader


async def test_a_client_goes_on_at_the_other_gateway() -> None:
    gateways = Gateways(
        event("one ", "x:1") + event("two ", "x:2") + ERROR,
        httpx.ConnectError("refused"),
        503,
        event("three", "x:3", "stop") + DONE,
    )
    record, reader = await ask(gateways)
    assert (record.end, faults_of(record)) == ("finished", [])
    assert reader.was_resumed
    assert reader.outcomes == {"error event": 1, "broken connection": 1, "status 503": 1}
    hosts = [request.url.host for request in gateways.asked]
    assert hosts == ["a", "b", "a", "b"]
    assert len({request.headers["idempotency-key"] for request in gateways.asked}) == 1
    last = [request.headers.get("last-event-id") for request in gateways.asked]
    assert last == [None, "x:2", "x:2", "x:2"]


@pytest.mark.parametrize(
    ("answers", "end", "kinds"),
    [
        ([422], "failed", []),
        ([event("one ", "x:1")], "failed", []),
        ([event("one ", "x:1", "stop") + DONE], "finished", ["fake finish"]),
        ([event("two ", "x:1", "stop") + DONE], "finished", ["changed", "fake finish"]),
    ],
    ids=["refused", "cut without a word", "too short", "changed"],
)
async def test_what_must_not_be_is_a_fault(
    answers: list[int | bytes | Exception], end: str, kinds: list[str]
) -> None:
    record, _ = await ask(Gateways(*answers))
    assert (record.end, [fault.kind for fault in faults_of(record)]) == (end, kinds)


async def test_a_request_without_an_answer_is_a_fault() -> None:
    record, reader = await ask(Gateways(*[503] * 1000), 0.05)
    assert [fault.kind for fault in faults_of(record)] == ["no end"]
    assert reader.outcomes.keys() == {"status 503"}
