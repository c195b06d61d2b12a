"""`python -m bench chaos soak`: many short requests of every kind, after which no process grew."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from random import Random
from typing import Any, Final

import click
import httpx

from airdraft.nodes.client.client import MeshClient, RequestFailedError
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.engine.rules import NO_RULES, Grammar, LogitRules
from bench.chaos.kills.asking_again import Reader
from bench.chaos.kills.backdrop import left_behind
from bench.harness.cases import toy_cases
from bench.harness.fleet import Fleet, Setup, fleet
from bench.harness.history import Record, faults_of
from bench.harness.http import COMPLETIONS, http_client, leave, request_of
from bench.harness.processes import cpu_s, num_files, num_threads, resident_bytes
from bench.harness.report import Findings, conclude, counts, head, note, row
from bench.harness.work import answered, ask, keep_asking
from bench.options import at_least, seed_option

_LIMIT_S: Final = 60.0
# A request that was under way when its coordinator was lost waits for its model until its deadline,
# even if nobody has it. After so long it is asked again, which leaves time for the second answer.
_REFUSED_WITHIN_S: Final = _LIMIT_S / 3
_NUM_CASES: Final = 128
_MEAN_TOKENS: Final = 6.0
_TOO_MANY_TOKENS: Final = 1 << 19
_BAD_GRAMMAR: Final = LogitRules(grammar=Grammar("gbnf", "root ::= ("))
_GOOD_GRAMMAR: Final = LogitRules(grammar=Grammar("gbnf", 'root ::= (" " [1-9] [0-9]?){2,8}'))
_PROMPT: Final = "the prompt of the soak"
_OPTIONS: Final = GenerateOptions(max_tokens=8, ignore_eog=True, chat=False, user="soak")


@click.command("soak")
@at_least("--requests", 100_000)
@at_least("--first", 10_000, "Requests before the first measurement.")
@at_least("--at-once", 16, "Concurrent requests.")
@seed_option
def soak_command(requests: int, first: int, at_once: int, seed: int) -> None:
    """Send short requests of every kind; check memory, files, threads and tasks of each process.

    \b
    Example:
      python -m bench chaos soak --requests 2000 --first 500
    """
    conclude(asyncio.run(run_soak(requests, min(first, requests), at_once=at_once, seed=seed)))


class Requests:
    """Requests of all kinds, whose outcomes are counted. Whole answers must have the undisturbed
    texts."""

    def __init__(self, mesh: Fleet, clients: list[MeshClient], seed: int, found: Soak) -> None:
        self._mesh = mesh
        self._found = found
        self._port = mesh.port("gateway-0")
        self._clients = itertools.cycle(clients)
        self._http: httpx.AsyncClient
        self._seed = seed
        self._numbers = itertools.count()
        self._cases = toy_cases(Random(seed), _NUM_CASES, _MEAN_TOKENS)
        self._plain_cases = [case for case in self._cases if case.options.rules == NO_RULES]
        # Weights of the kinds.
        self._kinds: dict[Callable[[Random], Awaitable[str]], int] = {
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
            some = itertools.islice(self._numbers, num_requests)
            await keep_asking(self._ask, at_once, some)

    async def _ask(self, _stream: int, number: int) -> bool:
        source = Random(self._seed * 1_000_003 + number)
        (kind,) = source.choices(list(self._kinds), list(self._kinds.values()))
        try:
            async with asyncio.timeout(_LIMIT_S):
                outcome = await answered(lambda: kind(source), self._mesh.has_lost_coordinator)
        except (OSError, AssertionError, RequestFailedError, httpx.HTTPError) as error:
            outcome, name = "failed", kind.__name__.strip("_")
            fault = f"request {number} ({name}): {type(error).__name__} {error}"
            self._found.faults.append(fault)
        self._found.outcomes[outcome] += 1
        return True

    # -- over HTTP ---------------------------------------------------------------------------------

    async def _http_answered(self, source: Random) -> str:
        case, is_stream = source.choice(self._plain_cases), source.random() < 0.5
        reader = Reader(self._http, 0, case, _LIMIT_S, is_stream=is_stream)
        _check(await reader.read(["/v1"], 0))
        return "streamed" if is_stream else "whole"

    async def _http_left(self, source: Random) -> str:
        is_stream = source.random() < 0.8
        body = _body(2000, stream=is_stream)
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

    async def _http_refused(self, source: Random) -> str:
        path, body, status = source.choice(
            (
                (COMPLETIONS, b"{", 400),
                (COMPLETIONS, b'{"prompt": 1.5}', 400),
                (COMPLETIONS, json.dumps(_body(4, model="nobody")).encode(), 404),
                (COMPLETIONS, json.dumps(_body(_TOO_MANY_TOKENS)).encode(), 400),
                ("/v1/nothing", b"{}", 404),
            )
        )
        headers = {"content-type": "application/json"}
        async with asyncio.timeout(_REFUSED_WITHIN_S):
            answer = await self._http.post(path, content=body, headers=headers)
        if answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            answer.raise_for_status()
        assert answer.status_code == status, answer
        return "refused"

    # -- over the wire -----------------------------------------------------------------------------

    async def _wire(self, source: Random) -> str:
        _check(await ask(next(self._clients), 0, source.choice(self._cases), _LIMIT_S))
        return "whole"

    async def _wire_left(self, source: Random) -> str:
        options = replace(_OPTIONS, max_tokens=2000, num_choices=source.choice((1, 1, 3)))
        events = next(self._clients).generate(_PROMPT, options)
        async with contextlib.aclosing(events) as open_events:
            for _ in range(source.choice((1, 1, 1, 2, 10, 40))):
                await anext(open_events)
        return "left"

    async def _wire_refused(self, source: Random) -> str:
        changes: dict[str, Any] = source.choice(
            (
                {"max_tokens": _TOO_MANY_TOKENS},
                {"model": "nobody"},
                {"temperature": -1.0},
                {"rules": _BAD_GRAMMAR},
            )
        )
        options = replace(_OPTIONS, timeout_s=_REFUSED_WITHIN_S, **changes)
        try:
            await _run(next(self._clients), options)
        except RequestFailedError as error:
            if error.code not in ("bad_request", "not_found"):
                raise
            return "refused"
        raise AssertionError(f"{changes}: not refused")

    async def _wire_odd(self, source: Random) -> str:
        """Send an unusual request: scores, grammars, users, long prompts."""
        changes: dict[str, Any] = source.choice(
            (
                {"num_logprobs": 2},
                {"scores_prompt": True, "num_logprobs": 0},
                {"rules": _GOOD_GRAMMAR},
                {"user": f"user {source.randrange(50)}", "priority": source.randint(1, 10)},
            )
        )
        options = replace(_OPTIONS, **changes)
        await _run(next(self._clients), options, _PROMPT * source.choice((1, 4, 12)))
        return "whole"

    async def _newcomer(self, _source: Random) -> str:
        async with self._mesh.clients(1) as (client,):
            await _run(client, _OPTIONS)
        return "whole"

    async def _looked(self, source: Random) -> str:
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


def _check(record: Record) -> None:
    """Raise AssertionError unless a request has ended as it must."""
    assert record.end == "finished", record.reason
    assert not (faults := faults_of(record)), faults[0]


def _body(length: int, **changes: object) -> dict[str, Any]:
    asked = {"prompt": _PROMPT, "max_tokens": length, "temperature": 0, "ignore_eos": True}
    return {**asked, **changes}


async def _run(client: MeshClient, options: GenerateOptions, prompt: str = _PROMPT) -> None:
    async for _ in client.generate(prompt, options):
        pass


# Growth allowed from the first measurement to the last; bounded caches are full at the first.
_MOST_MORE: Final = {"rss_kib": 2048, "files": 0, "threads": 0, "tasks": 0}
_SHOWN: Final = ("rss_kib", "files", "threads", "tasks", "objects")
_NUM_CLIENTS = 4
_FIGURES_WITHIN_S = 120.0
_SETTLE_S = 1.0
# The line that a process prints after SIGUSR1, once it has collected its garbage.
_LINE = re.compile(r"figures: (\d+) tasks, (\d+) threads of the pool, (\d+) objects")


# What one process holds: rss_kib, files, threads, tasks, objects and cpu_s. Threads are all of the
# process, libraries included, without the event loop's pool, whose size is bounded. Objects are
# those that Python's garbage collector tracks.
Figures = dict[str, Any]


@dataclass(slots=True)
class Soak(Findings):
    """Results. figures: by number of finished requests, then by process. outcomes: of requests."""

    figures: dict[int, dict[str, Figures]] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def check(self) -> None:
        """Add a fault for each figure that has grown too much."""
        first, last = self.figures[min(self.figures)], self.figures[max(self.figures)]
        for name, after in last.items():
            for what, most in _MOST_MORE.items():
                if (more := after[what] - first[name][what]) > most:
                    self.faults.append(f"{name}: {more} more {what}, {most} allowed")

    def summary(self) -> list[str]:
        first, last = min(self.figures), max(self.figures)
        lines = [
            f"{last} requests in {self.seconds:.0f} s: {counts(self.outcomes)}",
            head("process", *(f"{what} after {first}, growth" for what in _SHOWN), "processor s"),
        ]
        for name, after in self.figures[last].items():
            before = self.figures[first][name]
            grown = [f"{before[what]} {after[what] - before[what]:+d}" for what in _SHOWN]
            lines.append(row(name, *grown, after["cpu_s"]))
        return lines


async def run_soak(num_requests: int, first: int, *, at_once: int = 16, seed: int = 1) -> Soak:
    """Run num_requests requests, at_once of them concurrently.

    first: measure after this many requests, and after each further so many.
    """
    found = Soak()
    setup = Setup(
        num_gateways=1,
        fresh=True,
        # Without a prefix cache, memory for texts reaches its full size soon.
        environ={"AIRDRAFT_ENGINE__PREFIX_CACHE_MB": "0"},
    )
    began = time.monotonic()
    # The clients also request status and traces, which need the role admin.
    async with fleet(setup) as mesh, mesh.clients(_NUM_CLIENTS, "admin") as clients:
        await mesh.wait_for(clients[0])
        await mesh.wait_ready("gateway-0")
        asking = Requests(mesh, clients, seed, found)
        for mark in [*range(first, num_requests, first), num_requests]:
            await asking.run(mark - found.outcomes.total(), at_once)
            if left := await left_behind(clients[0], is_cache_off=True):
                found.faults.append(f"after the requests there is left: {left}")
            await asyncio.sleep(_SETTLE_S)
            found.figures[mark] = {name: await _figures_of(mesh, name) for name in mesh.roles}
            found.seconds = time.monotonic() - began
            note(str(found))
        found.faults += mesh.accidents
    found.check()
    return found


async def _figures_of(mesh: Fleet, name: str) -> Figures:
    """Returns the figures of a process. Raises FleetError if it does not log them in time."""
    process, log = mesh.process(name), mesh.log(name)

    def said() -> list[tuple[str, str, str]]:
        return _LINE.findall(log.read_text(errors="replace"))

    num_seen = len(said())
    process.signal(signal.SIGUSR1)
    what = f"{name} has logged no figures"
    line = await mesh.until(lambda: next(iter(said()[num_seen:]), None), _FIGURES_WITHIN_S, what)
    tasks, num_pooled, objects = map(int, line)
    pid = process.pid
    return {
        "rss_kib": resident_bytes(pid) // 1024,
        "files": num_files(pid),
        "threads": num_threads(pid) - num_pooled,
        "tasks": tasks,
        "objects": objects,
        "cpu_s": round(cpu_s([pid]), 1),
    }
