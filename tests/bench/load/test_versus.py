"""One request over HTTP, figures of runs, when requests are sent, and systems in turns."""

import asyncio
import contextlib
import dataclasses
import json
import os
import re

import pytest

from bench.load import versus
from bench.load.asking import Endpoint, ask
from bench.load.figures import Asked, figures_of, joint_rate
from bench.load.versus import Load, Side, in_turns, tokens_within
from bench.load.workloads import NAMES, Workload, workload


def event(text=None, usage=None):
    choice = {"index": 0, "delta": {"content": text} if text is not None else {}}
    said = {"choices": [choice] if usage is None else [], "usage": usage}
    return f"data: {json.dumps(said)}\n\n".encode()


@contextlib.asynccontextmanager
async def serving(answer, bodies=None):
    """An endpoint whose answers are these bytes."""

    async def answer_one(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
        body = await reader.readexactly(length)
        if bodies is not None:
            bodies.append(json.loads(body))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer_one, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield Endpoint(url=f"http://127.0.0.1:{port}/v1", model="m")


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


async def told(answer, bodies=None):
    async with serving(answer, bodies) as endpoint:
        return await ask(endpoint, "hello", max_tokens=5)


async def test_tokens_are_counted_by_what_the_answer_says_of_itself():
    bodies = []
    answer = OK + event("a") + event("bc") + event(usage={"completion_tokens": 5})
    made = await told(answer + b"data: [DONE]\n\n", bodies)
    assert (made.error, made.text) == ("", "abc")
    assert len(made.token_s) == 5
    assert made.asked_s < made.token_s[0] <= made.token_s[-1]
    assert bodies[0]["messages"] == [{"role": "user", "content": "hello"}]
    assert (bodies[0]["max_tokens"], bodies[0]["seed"]) == (5, 1)
    # Those of one event come at its time, in proportion to its text.
    answer = OK + event("a") + event("bcd") + event(usage={"completion_tokens": 6})
    made = await told(answer + b"data: [DONE]\n\n")
    first, last = made.token_s[0], made.token_s[-1]
    assert [made.token_s.count(at) for at in (first, last)] == [2, 4]


async def test_without_usage_each_event_with_text_is_a_token():
    made = await told(OK + event("a") + event("b") + event() + b"data: [DONE]\n\n")
    assert len(made.token_s) == 2
    assert not made.error


async def test_what_goes_wrong_is_told_in_the_result():
    assert "503" in (await told(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")).error
    assert "error event" in (await told(OK + b'data: {"error": {"message": "no"}}\n\n')).error
    for what in (b"nonsense", b"7", b"null", b'{"choices": [null]}', b'{"usage": 3}'):
        assert (await told(OK + b"data: " + what + b"\n\n")).error
    assert "without [DONE]" in (await told(OK + event("a"))).error
    few = event("a") + event(usage={"completion_tokens": 2}) + b"data: [DONE]\n\n"
    assert (await told(OK + few)).error == "2 of 5 tokens"
    assert (await told(OK + b"data: [DONE]\n\n")).error == "0 of 5 tokens"
    gone = Endpoint(url="http://127.0.0.1:1/v1", model="m")
    assert (await ask(gone, "x", max_tokens=1)).error


def test_rates_count_the_time_in_which_all_streams_decode():
    requests = [Asked(0.0, (1.0, 2.0, 3.0), "", "a"), Asked(0.5, (1.5, 2.5, 4.5), "", "b")]
    made = figures_of([requests], cpu_s=3.0)
    # From 1.5, when both had begun, to 3.0, when the first had ended: 2.0, 2.5, 3.0.
    assert made.tokens_per_s == pytest.approx(3 / 1.5)
    assert (made.first_token_s, made.num_tokens, made.cpu_s_a_token) == (1.0, 6, 0.5)
    assert (made.texts, made.num_failed, made.error) == (("a", "b"), 0, "")
    # Groups count one after the other: the other one has 2 tokens in 1 second.
    both = figures_of([requests, [Asked(9.0, (10.0, 10.5, 11.0))]], cpu_s=3.0)
    assert both.tokens_per_s == pytest.approx(5 / 2.5)


def test_a_request_that_failed_has_no_text_and_no_rate():
    made = figures_of([[Asked(0.0, (1.0, 2.0), "reset", "a")], [Asked(0.0)]], cpu_s=1.0)
    assert (made.num_failed, made.error, made.texts) == (1, "reset", (None, ""))
    assert (made.tokens_per_s, made.first_token_s, made.cpu_s_a_token) == (0.0, 0.0, 0.5)


def test_requests_that_never_ran_together_have_no_common_rate():
    requests = [Asked(0.0, (1.0, 2.0)), Asked(0.0, (3.0, 4.0))]
    assert joint_rate([request.token_s for request in requests]) == 0.0
    # The first one has ended, so that the second one alone counts.
    assert joint_rate([(1.0, 2.0), (3.0, 4.0, 4.5)], ends_early=True) == pytest.approx(2 / 1.5)
    # A stream of two tokens does not count, and two of the other's are skipped.
    assert joint_rate([(1.0, 2.0), (0.5, 1.5, 4.0)], 2) == pytest.approx(1 / 2.5)


LOAD = Load(Workload("w", ("a", "b", "c", "d"), 3), num_streams=2)


@pytest.fixture
def asked(monkeypatch):
    """Who was asked for what."""
    found = []

    async def answer(endpoint, prompt, *, max_tokens, schema):
        found.append((endpoint.url, prompt))
        await asyncio.sleep(0)
        return Asked(0.0, tuple(0.1 * k for k in range(1, max_tokens + 1)))

    monkeypatch.setattr(versus, "ask", answer)
    return found


def sides(*names):
    return [Side(name, Endpoint(url=name, model="m"), os.getpid()) for name in names]


async def test_all_sides_have_the_same_requests_in_changing_order(asked):
    turns = await in_turns(sides("one", "two"), LOAD, 3)
    assert [[len(figures.texts) for figures in turn] for turn in turns] == [[2, 2]] * 3
    by_side = {name: [prompt for url, prompt in asked if url == name] for name in ("one", "two")}
    # A turn to warm up, and three turns that go on through the prompts.
    assert by_side["one"] == ["c", "d", "a", "b", "c", "d", "a", "b"]
    assert by_side["two"] == by_side["one"]
    measured = [url for url, _ in asked[4:]]
    assert measured == [*["one"] * 2, *["two"] * 4, *["one"] * 4, *["two"] * 2]


async def test_only_tokens_within_the_time_count(monkeypatch):
    now = 0.0

    async def answer(endpoint, prompt, *, max_tokens, schema):
        nonlocal now
        began, now = now, now + 3.0
        return Asked(began, (began + 1.0, began + 2.0, began + 3.0))

    monkeypatch.setattr(versus, "ask", answer)
    monkeypatch.setattr(versus.time, "perf_counter", lambda: now)
    load = dataclasses.replace(LOAD, num_streams=1)
    # It asks at 0, 3 and 6 s, and the last token of the third answer comes too late.
    assert await tokens_within(*sides("one"), load, 0, seconds=8.5) == 8


def test_every_workload_has_prompts():
    for name in NAMES:
        made = workload(name, 8)
        assert len(set(made.prompts)) >= 4
        assert all(prompt.strip() == prompt and prompt for prompt in made.prompts)
        assert not any(prompt.startswith("source:") for prompt in made.prompts)
