"""`python -m bench hostile-requests`: hostile requests to a mesh with limited memory.

Each process of `airdraft up` has 4 GiB of address space. Each request must be answered, or refused
in time. An ordinary chat is sent after each. No process may die, and memory use must afterwards be
about the same as before.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import click
import httpx

from bench.harness.processes import resident_bytes, tree
from bench.harness.report import Findings, conclude, note
from bench.harness.up import up
from bench.options import at_least

# The command prefix that limits the address space of each process.
_LIMITED: Final = ("prlimit", f"--as={4 << 30}", "--")
_REFUSAL_LIMIT_S: Final = 5.0
_ANSWER_LIMIT_S: Final = 300.0
# What may be kept: texts' beginnings on the target, compiled grammars on it and the draft node.
_MEMORY_LIMIT_MB: Final = 256 + 2 * 64
_PREFILL_FACTOR: Final = 1.5
_WORD_CHARS: Final = 60_000
_CHAT: Final = "/chat/completions"
_TEXT: Final = "/completions"
# Schemas that a review found to be harmful, and similar ones.
_SCHEMAS: Final[dict[str, Any]] = {
    "multipleOf 4999999": {"type": "integer", "multipleOf": 4_999_999},
    "multipleOf 999983": {"type": "integer", "multipleOf": 999_983},
    "eight of 99991": {"properties": {f"a{i}": {"multipleOf": 99_991 - i} for i in range(8)}},
    "two that are prime": {"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]},
    "nested repeats": {"type": "string", "pattern": "^((a{1,100}){1,100}){1,100}$"},
    "700 patterns": {
        "properties": {f"f{i}": {"type": "string", "pattern": "^(a|b){0,50}$"} for i in range(700)}
    },
    "3000 values": {"enum": [f"value{i}" for i in range(3000)]},
    "long strings": {"type": "string", "minLength": 50_000, "maxLength": 100_000},
}


def _schema(random: Random, depth: int = 3) -> Any:
    """Draw a JSON schema of any kind, with numbers of all sizes."""
    kinds = ("string", "integer", "number", "boolean", "null", "array", "object")
    patterns = ("^a{0,%d}$", "(a|b|ab){%d}", "^.{%d}x", "[^a]{0,%d}b")
    formats = ("date-time", "uri", "email", "uuid", "ipv6")
    low, high = (random.choice((random.randint(0, 100), random.randint(0, 10**7))) for _ in "12")
    words = ["".join(random.choices("aé\n漢", k=random.randint(0, 20))) for _ in range(low % 50)]
    leaves = (
        {"type": random.choice(kinds)},
        {"type": "integer", "multipleOf": low},
        {"type": "number", "multipleOf": 10 ** random.uniform(-9, 9)},
        {"type": "integer", "minimum": low, "maximum": high},
        {"type": "string", "minLength": low, "maxLength": high},
        {"type": "string", "pattern": random.choice(patterns) % low},
        {"type": "string", "format": random.choice(formats)},
        {"enum": [*words, low]},
    )
    if not depth or random.random() < 0.3:
        return random.choice(leaves)
    parts = [_schema(random, depth - 1) for _ in range(random.randint(1, 6 if depth > 2 else 2))]
    return random.choice(
        (
            {random.choice(("allOf", "anyOf", "oneOf")): parts},
            {"type": "array", "items": parts[0], "maxItems": low},
            {"type": "object", "properties": {f"p{i}": part for i, part in enumerate(parts)}},
        )
    )


def _bodies(schemas: Sequence[Any], num_vocab: int, context: int) -> list[tuple[str, str, Any]]:
    """Return the hostile requests in random order, each as name, path and body."""
    found: list[tuple[str, str, Any]] = []
    generated = {f"generated {number}": schema for number, schema in enumerate(schemas)}
    for name, schema in {**_SCHEMAS, **generated}.items():
        response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        messages = [{"role": "user", "content": "Answer."}]
        body: Any = {"messages": messages, "max_tokens": 8, "response_format": response_format}
        found.append((name, _CHAT, body))
    for letter in "a!é \n0":
        messages = [{"role": "user", "content": letter * _WORD_CHARS}]
        found.append((f"a word of {letter!r}", _CHAT, {"messages": messages, "max_tokens": 1}))
    for length in (1, context - 1, context, 131_071, 131_072, 131_073):
        body = {"prompt": [5] * length, "max_tokens": 1}
        found.append((f"{length} token ids", _TEXT, body))
    found += [
        (f"token id {token_id}", _TEXT, {"prompt": [token_id] * 9})
        for token_id in (num_vocab - 1, num_vocab, 2**31 - 1, 2**32, -1)
    ]
    Random(1).shuffle(found)
    return found


@click.command("hostile-requests")
@at_least("--schemas", 200, "Generated JSON schemas.", least=0)
def hostile_requests_command(schemas: int) -> None:
    """Send harmful requests to a mesh with limited memory.

    Each process has 4 GB of address space.

    \b
    Example:
      python -m bench hostile-requests --schemas 20
    """
    conclude(asyncio.run(run_hostile(schemas)))


async def run_hostile(num_schemas: int) -> Findings:
    """Send all hostile requests to one mesh on loopback."""
    with up(prefix=_LIMITED) as mesh:
        async with httpx.AsyncClient(base_url=mesh.url, timeout=_ANSWER_LIMIT_S) as client:
            sender = _Sender(client)
            await sender.chat()
            await sender.ask(*_bodies((), 9, 9)[0])
            pids, before_mb = _processes(mesh.process.pid)
            sender.reading_s = await sender.seconds_of_reading()
            source = Random(1)
            asked = _bodies([_schema(source) for _ in range(num_schemas)], 49_152, 8192)
            for number, (name, path, body) in enumerate(asked, 1):
                await sender.ask(name, path, body)
                await sender.chat()
                if number % 20 == 0:
                    note(f"{number} of {len(asked)}")
            pids_after, after_mb = _processes(mesh.process.pid)
        faults = sender.faults
        if after_mb - before_mb > _MEMORY_LIMIT_MB:
            faults.append(f"memory grew by {after_mb - before_mb:.0f} MB")
        if not pids <= pids_after:
            faults.append("a node or the coordinator has ended or was restarted")
    lines = [
        f"{sender.codes.total()} requests by HTTP status: {dict(sorted(sender.codes.items()))}",
        f"slowest refusal {sender.slowest_refusal_s:.1f} s",
        f"slowest answer {sender.slowest_ratio:.2f} x the time to read as many tokens",
        f"memory of all processes {before_mb:.0f} MB before, {after_mb:.0f} MB after",
    ]
    return Findings(lines, faults + mesh.faults)


class _Sender:
    """Sends requests and checks their answers.

    reading_s: seconds that reading a token takes. codes: counts by HTTP status. slowest_ratio:
    longest time of an answer relative to reading as many tokens, at least 1 s.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.reading_s = 1.0
        self.faults: list[str] = []
        self.codes = Counter[int]()
        self.slowest_refusal_s = 0.0
        self.slowest_ratio = 0.0
        self._client = client

    async def chat(self) -> None:
        """Send an ordinary chat, which must be answered."""
        body = {"messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 4}
        await self.ask("an ordinary chat", _CHAT, body, may_be_refused=False)

    async def ask(self, name: str, path: str, body: Any, *, may_be_refused: bool = True) -> None:
        """Send one request, which must be answered or refused in time."""
        begin = time.perf_counter()
        try:
            answer = await self._client.post(path, json=body)
        except httpx.HTTPError as error:
            self.faults.append(f"{name}: {type(error).__name__}")
            return
        took_s, code = time.perf_counter() - begin, answer.status_code
        self.codes[code] += 1
        if may_be_refused and 400 <= code < 500:
            self.slowest_refusal_s = max(self.slowest_refusal_s, took_s)
            if took_s > _REFUSAL_LIMIT_S:
                self.faults.append(f"{name}: refused after {took_s:.1f} s")
        elif code == 200:
            num_tokens = answer.json()["usage"]["prompt_tokens"]
            usual_s = max(1.0, self.reading_s * num_tokens)
            if took_s > _PREFILL_FACTOR * usual_s + _REFUSAL_LIMIT_S:
                # Tokens of a longer prompt take longer, because each attends to more keys.
                usual_s = num_tokens * await self.seconds_of_reading(num_tokens)
            self.slowest_ratio = max(self.slowest_ratio, took_s / usual_s)
            if took_s > _PREFILL_FACTOR * usual_s + _REFUSAL_LIMIT_S:
                fault = f"answered after {took_s:.1f} s, usual: {usual_s:.1f} s"
                self.faults.append(f"{name}: {fault}")
        else:
            self.faults.append(f"{name}: status {code}")

    async def seconds_of_reading(self, num_tokens: int = 2000) -> float:
        """Return the seconds per token that reading an ordinary prompt of num_tokens takes."""
        begin, source = time.perf_counter(), Random()
        token_ids = [100 + source.randrange(20_000) for _ in range(num_tokens)]
        body = {"prompt": token_ids, "max_tokens": 1}
        (await self._client.post(_TEXT, json=body)).raise_for_status()
        return (time.perf_counter() - begin) / num_tokens


def _processes(pid: int) -> tuple[set[int], float]:
    """Return the ids of processes that must not end, and the resident memory of all, in MB.

    pid: the process of `airdraft up`. Processes that its children start may come and go.
    """
    children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return {pid, *children}, sum(map(resident_bytes, tree(pid))) / 1e6
