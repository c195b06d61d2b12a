"""One request over HTTP, figures of runs, when requests are sent, and systems in turns."""

import asyncio
import contextlib
import dataclasses
import json
import math
import re

import pytest

from bench.load import versus
from bench.load.asking import Endpoint, ask
from bench.load.figures import Asked, Slo, delays, figures_of, joint_rate
from bench.load.versus import Load, Side, arrivals, ask_at, in_turns
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
        yield Endpoint(url=f"http://127.0.0.1:{port}/v1", model="m", extra=(("more", 1),))


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


async def told(answer, bodies=None):
    async with serving(answer, bodies) as endpoint:
        return await ask(endpoint, "hello", max_tokens=5)


async def test_tokens_are_counted_by_what_the_answer_says_of_itself():
    bodies = []
    answer = OK + event("a") + event("bc") + event(usage={"completion_tokens": 5})
    made = await told(answer + b"data: [DONE]\n\n", bodies)
    assert not made.error
    assert len(made.token_s) == 5
    assert made.asked_s < made.token_s[0] <= made.token_s[-1]
    assert bodies[0]["messages"] == [{"role": "user", "content": "hello"}]
    assert (bodies[0]["max_tokens"], bodies[0]["seed"], bodies[0]["more"]) == (5, 1, 1)
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


async def test_a_system_that_does_not_count_is_counted_by_its_text():
    body = b'data: {"choices": [{"index": 0, "text": "one two "}]}\n\n' + event("three")
    async with serving(OK + body + b"data: [DONE]\n\n") as endpoint:
        count = dataclasses.replace(endpoint, count=lambda text: len(text.split()))
        made = await ask(count, "hello", max_tokens=5)
        assert (len(made.token_s), made.error) == (3, "3 of 5 tokens")
        early = dataclasses.replace(count, may_end_early=True)
        assert not (await ask(early, "hello", max_tokens=5)).error


SLO = Slo(first_token_s=1.0, each_token_s=0.5)


def test_quantiles_are_values_that_were_seen():
    found = delays("answer", [float(k) for k in range(1, 101)])
    assert found == {"answer p50": 50.0, "answer p95": 95.0, "answer p99": 99.0}
    assert delays("answer", [3.0])["answer p99"] == 3.0
    assert math.isnan(delays("answer", [])["answer p50"])


def test_rates_count_what_came_in_the_time_that_it_took():
    requests = [Asked(0.0, (1.0, 2.0, 3.0)), Asked(0.5, (1.5, 2.5, 4.5))]
    made = figures_of(requests, SLO, cpu_s=3.0)
    assert made.seconds == 4.5
    assert made.metrics["tokens/s"] == pytest.approx(6 / 4.5)
    # From 1.5, when both had begun, to 3.0, when the first had ended: 2.0, 2.5, 3.0.
    assert made.metrics["decode tokens/s"] == pytest.approx(3 / 1.5)
    assert made.metrics["first token p50"] == 1.0
    assert made.metrics["time a token p50"] == 1.0
    assert made.metrics["processor time a token"] == 0.5


def test_goodput_counts_requests_that_were_good_enough():
    fast, late, slow = (0.5, 0.9, 1.3), (1.5, 1.6, 1.7), (0.5, 1.5, 2.5)
    failed = Asked(0.0, fast, "reset")
    requests = [Asked(0.0, fast), Asked(0.0, late), Asked(0.0, slow), failed, Asked(0.0)]
    made = figures_of(requests, SLO)
    assert made.num_failed == 1
    assert made.metrics["goodput"] == pytest.approx(1 / 2.5)


def test_requests_that_never_ran_together_have_no_common_rate():
    requests = [Asked(0.0, (1.0, 2.0)), Asked(0.0, (3.0, 4.0))]
    assert figures_of(requests, SLO).metrics["decode tokens/s"] == 0.0
    # The first one has ended, so that the second one alone counts.
    assert joint_rate([(1.0, 2.0), (3.0, 4.0, 4.5)], ends_early=True) == pytest.approx(2 / 1.5)
    # A stream of two tokens does not count, and two of the other's are skipped.
    assert joint_rate([(1.0, 2.0), (0.5, 1.5, 4.0)], 2) == pytest.approx(1 / 2.5)


LOAD = Load(workload=Workload("w", ("a", "b", "c", "d"), 3), num_streams=2)


@pytest.fixture
def asked(monkeypatch):
    """Who was asked for what; side "slow" takes a minute for each answer."""
    found = []

    async def answer(endpoint, prompt, *, max_tokens, schema):
        found.append((endpoint.url, prompt))
        each_s = 20.0 if endpoint.url == "slow" else 0.1
        return Asked(0.0, tuple(each_s * k for k in range(1, max_tokens + 1)))

    monkeypatch.setattr(versus, "ask", answer)
    return found


async def test_all_sides_have_the_same_requests_in_changing_order(asked):
    sides = [Side(name, Endpoint(url=name, model="m"), ()) for name in ("one", "two")]
    turns = await in_turns(sides, LOAD, 3)
    assert [[figures.num_requests for figures in turn] for turn in turns] == [[2, 2]] * 3
    by_side = {name: [prompt for url, prompt in asked if url == name] for name in ("one", "two")}
    # A request, a warm-up turn, and three turns that go on through the prompts.
    assert by_side["one"] == ["d", "c", "d", "a", "b", "c", "d", "a", "b"]
    assert by_side["two"] == by_side["one"]
    measured = [url for url, _ in asked[6:]]
    assert measured == [*["one"] * 2, *["two"] * 4, *["one"] * 4, *["two"] * 2]


async def test_a_slow_side_has_one_turn(asked):
    sides = [Side(name, Endpoint(url=name, model="m"), ()) for name in ("fast", "slow")]
    turns = await in_turns(sides, LOAD, 3)
    assert [[figures is not None for figures in turn] for turn in turns] == [
        [True, True],
        [True, False],
        [True, False],
    ]
    assert [url for url, _ in asked].count("slow") == 3


def test_arrivals_come_at_their_rate_and_are_the_same_each_time():
    times = arrivals(5.0, 1000.0, seed=3)
    assert times == arrivals(5.0, 1000.0, seed=3)
    assert times == sorted(times)
    assert 4500 < len(times) < 5500
    assert times[-1] < 1000.0


async def test_requests_do_not_wait_for_answers():
    gate = asyncio.Event()
    asked = []

    async def ask(prompt):
        asked.append(prompt)
        if len(asked) == 3:
            gate.set()
        await gate.wait()
        return Asked(0.0, (1.0,))

    async with asyncio.timeout(60):
        answers = await ask_at(ask, ["a"], [0.0, 0.001, 0.002])
    assert asked == ["a"] * 3
    assert len(answers) == 3


def test_every_workload_has_prompts():
    for name in NAMES:
        made = workload(name, 8)
        assert len(set(made.prompts)) >= 4
        assert all(prompt.strip() == prompt and prompt for prompt in made.prompts)
        assert not any(prompt.startswith("source:") for prompt in made.prompts)
