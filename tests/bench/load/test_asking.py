"""One request over HTTP to a server that answers as it is told."""

import asyncio
import contextlib
import dataclasses
import json

from bench.load.asking import Endpoint, ask


def event(text=None, usage=None):
    choice = {"index": 0, "delta": {"content": text} if text is not None else {}}
    said = {"choices": [choice] if usage is None else [], "usage": usage}
    return f"data: {json.dumps(said)}\n\n".encode()


@contextlib.asynccontextmanager
async def serving(answer, bodies=None):
    """An endpoint whose answers are these bytes."""

    async def answer_one(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        )
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
        return await ask(endpoint, "hello", max_tokens=5, temperature=0.0, seed=3)


async def test_tokens_are_counted_by_what_the_answer_says_of_itself():
    bodies = []
    answer = OK + event("a") + event("bc") + event(usage={"completion_tokens": 5})
    made = await told(answer + b"data: [DONE]\n\n", bodies)
    assert not made.error
    assert len(made.token_s) == 5
    assert made.asked_s < made.token_s[0] <= made.token_s[-1]
    assert bodies[0]["messages"] == [{"role": "user", "content": "hello"}]
    assert (bodies[0]["max_tokens"], bodies[0]["seed"], bodies[0]["more"]) == (5, 3, 1)


async def test_tokens_of_one_event_come_at_its_time_in_proportion_to_its_text():
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
    assert (await told(OK + b"data: nonsense\n\n")).error
    assert "without [DONE]" in (await told(OK + event("a"))).error
    few = event("a") + event(usage={"completion_tokens": 2}) + b"data: [DONE]\n\n"
    assert (await told(OK + few)).error == "2 of 5 tokens"
    assert (await told(OK + b"data: [DONE]\n\n")).error == "0 of 5 tokens"
    gone = Endpoint(url="http://127.0.0.1:1/v1", model="m")
    assert (await ask(gone, "x", max_tokens=1, temperature=0.0, seed=1)).error


async def test_a_system_that_does_not_count_is_counted_by_its_text():
    body = b'data: {"choices": [{"index": 0, "text": "one two "}]}\n\n' + event("three")
    async with serving(OK + body + b"data: [DONE]\n\n") as endpoint:
        count = dataclasses.replace(endpoint, count=lambda text: len(text.split()))
        made = await ask(count, "hello", max_tokens=5, temperature=0.0, seed=3)
        assert (len(made.token_s), made.error) == (3, "3 of 5 tokens")
        early = dataclasses.replace(count, may_end_early=True)
        assert not (await ask(early, "hello", max_tokens=5, temperature=0.0, seed=3)).error
