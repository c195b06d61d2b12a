"""The requests of a soak, of every kind, drawn from a seed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

import httpx

from bench.harness.fleet import Fleet
from bench.harness.http import COMPLETIONS, http_client, leave, request_of
from bench.harness.work import Load
from nodes.client.client import Client, Event, RequestFailedError
from nodes.client.generation import GenerateOptions
from nodes.engine.rules import Grammar, LogitRules
from nodes.messages import TokensNotice

_LIMIT_S: Final = 60.0
_MOST_FAULTS: Final = 20
_NUM_PROMPTS: Final = 32
_LENGTHS: Final = (2, 5, 8, 12)
_TOO_MANY_TOKENS: Final = 1 << 19
_BAD_GRAMMAR: Final = LogitRules(grammar=Grammar("gbnf", "root ::= ("))
_GOOD_GRAMMAR: Final = LogitRules(grammar=Grammar("gbnf", 'root ::= (" " [1-9] [0-9]?){2,8}'))
_OPTIONS: Final = GenerateOptions(max_tokens=8, ignore_eog=True, chat=False, user="soak")


class Requests:
    """Requests of all kinds. Equal requests must get equal texts.

    outcomes: counts of requests. faults: at most _MOST_FAULTS descriptions.
    """

    def __init__(self, mesh: Fleet, clients: list[Client], seed: int) -> None:
        self.outcomes = Counter[str]()
        self.faults: list[str] = []
        self._mesh = mesh
        self._port = mesh.port("gateway-0")
        self._clients = itertools.cycle(clients)
        self._http: httpx.AsyncClient
        self._seed = seed
        self._numbers = itertools.count()
        self._texts: dict[tuple[int, int], str] = {}
        # Weights of the kinds.
        self._kinds: dict[Callable[[random.Random], Awaitable[str]], int] = {
            self._http_answered: 320,
            self._http_left: 60,
            self._http_refused: 60,
            self._wire: 340,
            self._wire_left: 100,
            self._wire_refused: 60,
            self._wire_odd: 50,
            self._newcomer: 4,
            self._looked: 6,
        }

    async def run(self, num_requests: int, at_once: int) -> None:
        """Run the next requests, at_once at a time, and close the connections of this process."""
        async with http_client(self._port, _LIMIT_S) as self._http:
            await Load(self._ask, at_once, num_requests).run()

    async def _ask(self, _stream: int, _number: int) -> bool:
        number = next(self._numbers)
        source = random.Random(self._seed * 1_000_003 + number)
        (kind,) = source.choices(list(self._kinds), list(self._kinds.values()))
        try:
            async with asyncio.timeout(_LIMIT_S):
                outcome = await kind(source)
        except (
            *(OSError, TimeoutError, AssertionError),
            *(RequestFailedError, httpx.HTTPError),
        ) as error:
            outcome = "failed"
            name = kind.__name__.strip("_")
            self._fault(f"request {number} ({name}): {type(error).__name__} {error}")
        self.outcomes[outcome] += 1
        return True

    def _fault(self, text: str) -> None:
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(text[:300])

    def _same(self, prompt: int, length: int, text: str) -> None:
        known = self._texts.setdefault((prompt, length), text)
        assert known == text, f"prompt {prompt}, {length} tokens: the text differs from before"

    # -- over HTTP ---------------------------------------------------------------------------------

    async def _http_answered(self, source: random.Random) -> str:
        prompt, length = _drawn(source)
        is_stream = source.random() < 0.5
        body = _body(prompt, length, stream=is_stream)
        answer = (await self._http.post(COMPLETIONS, json=body)).raise_for_status()
        parts = [answer.text]
        if is_stream:
            *parts, end = (line[6:] for line in answer.text.splitlines() if line[:6] == "data: ")
            assert end == "[DONE]", end
        text = "".join(json.loads(part)["choices"][0]["text"] for part in parts)
        self._same(prompt, length, text)
        return "streamed" if is_stream else "whole"

    async def _http_left(self, source: random.Random) -> str:
        is_stream = source.random() < 0.8
        body = _body(source.randrange(_NUM_PROMPTS), 2000, stream=is_stream)
        request, num_bytes = request_of(COMPLETIONS, body), 0
        if source.random() < 0.2:
            # Leave within head or body.
            request = request[: source.randrange(1, len(request))]
        elif is_stream:
            # Leave before the first token or after some. A whole answer sends nothing until its
            # end.
            num_bytes = source.choice((0, 100, 1000, 4000))
        await leave(self._port, request, num_bytes, source.random() / 5)
        return "left"

    async def _http_refused(self, source: random.Random) -> str:
        path, body, status = source.choice(
            (
                (COMPLETIONS, b"{", 400),
                (COMPLETIONS, b'{"prompt": 1.5}', 400),
                (COMPLETIONS, json.dumps(_body(1, 4, model="nobody")).encode(), 404),
                (COMPLETIONS, json.dumps(_body(1, _TOO_MANY_TOKENS)).encode(), 400),
                ("/v1/nothing", b"{}", 404),
            )
        )
        headers = {"content-type": "application/json"}
        answer = await self._http.post(path, content=body, headers=headers)
        assert answer.status_code == status, answer
        return "refused"

    # -- over the wire -----------------------------------------------------------------------------

    async def _wire(self, source: random.Random) -> str:
        prompt, length = _drawn(source)
        gamma = source.choice((None, None, None, 0, 4))
        options = replace(_OPTIONS, max_tokens=length, gamma=gamma)
        self._same(prompt, length, await _text(next(self._clients), _prompt(prompt), options))
        return "whole"

    async def _wire_left(self, source: random.Random) -> str:
        options = replace(_OPTIONS, max_tokens=2000, num_choices=source.choice((1, 1, 3)))
        events = next(self._clients).generate(_prompt(source.randrange(_NUM_PROMPTS)), options)
        # Generators of nodes.client.client have aclose, which cancels the request.
        async with contextlib.aclosing(events) as open_events:  # type: ignore[type-var]
            for _ in range(source.choice((1, 1, 1, 2, 10, 40))):
                await anext(open_events)
        return "left"

    async def _wire_refused(self, source: random.Random) -> str:
        changes: dict[str, Any] = source.choice(
            (
                {"max_tokens": _TOO_MANY_TOKENS},
                {"model": "nobody"},
                {"temperature": -1.0},
                {"rules": _BAD_GRAMMAR},
            )
        )
        code = ""
        try:
            await _text(next(self._clients), _prompt(0), replace(_OPTIONS, **changes))
        except RequestFailedError as error:
            code = error.code
        assert code in ("bad_request", "not_found"), f"{changes}: {code or 'not refused'}"
        return "refused"

    async def _wire_odd(self, source: random.Random) -> str:
        """Send an unusual request: long prompts, choices, scores, rules, token ids, stops."""
        changes: dict[str, Any] = source.choice(
            (
                {"num_choices": 3, "temperature": 1.0, "seed": source.randrange(1000)},
                {"num_logprobs": 2},
                {"scores_prompt": True, "num_logprobs": 0},
                {"rules": _GOOD_GRAMMAR},
                {"stops": (" 1", "2 3")},
                {"user": f"user {source.randrange(50)}", "priority": source.randint(1, 10)},
                {"chat": True},
            )
        )
        long = _prompt(source.randrange(_NUM_PROMPTS)) * source.choice((1, 4, 12))
        prompt = tuple(range(1, 60)) if source.random() < 0.2 else long
        await _text(next(self._clients), prompt, replace(_OPTIONS, **changes))
        return "whole"

    async def _newcomer(self, source: random.Random) -> str:
        async with self._mesh.clients(1) as (client,):
            await _text(client, _prompt(source.randrange(_NUM_PROMPTS)), _OPTIONS)
        return "whole"

    async def _looked(self, source: random.Random) -> str:
        """Request status, a trace or metrics instead of text."""
        client = next(self._clients)
        match source.randrange(4):
            case 0:
                await client.status()
            case 1:
                await client.trace(-1)
            case 2:
                (await self._http.get("/metrics")).raise_for_status()
            case _:
                (await self._http.get("/api/status")).raise_for_status()
        return "looked"


def _drawn(source: random.Random) -> tuple[int, int]:
    return source.randrange(_NUM_PROMPTS), source.choice(_LENGTHS)


def _prompt(number: int) -> str:
    return f"prompt {number} of the soak"


def _body(prompt: int, length: int, *, stream: bool = False, **changes: object) -> dict[str, Any]:
    return {
        "prompt": _prompt(prompt),
        "max_tokens": length,
        "temperature": 0,
        "ignore_eos": True,
        "stream": stream,
        **changes,
    }


async def _text(client: Client, prompt: str | tuple[int, ...], options: GenerateOptions) -> str:
    """Return the text of the first choice."""
    text = b""
    event: Event
    async for event in client.generate(prompt, options):
        if isinstance(event, TokensNotice) and event.choice == 0:
            text += event.text
    return text.decode("utf-8", "replace")
