"""Send hostile requests to `airdraft up` with 4 GiB of address space per process.

Each request must be answered, or refused in time. An ordinary chat is sent after each. No process
may die, and memory use must afterwards be about the same as before.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import httpx

from bench.harness.processes import resident_bytes, tree
from bench.harness.report import Findings
from bench.harness.up import up

# The command prefix that limits the address space of each process.
_LIMITED: Final = ("prlimit", f"--as={4 << 30}", "--")
_REFUSAL_LIMIT_S: Final = 5.0
_ANSWER_LIMIT_S: Final = 300.0
_MEMORY_LIMIT_MB: Final = 200
_PREFILL_FACTOR: Final = 1.5
_WORD_CHARS: Final = 60_000
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


@dataclass(slots=True)
class Found(Findings):
    """Results. codes: counts by HTTP status. memory_mb: of all processes, before and after.

    slowest_ratio: longest time of an answer relative to reading as many tokens, at least 1 s.
    """

    codes: Counter[int] = field(default_factory=Counter)
    slowest_refusal_s: float = 0.0
    slowest_ratio: float = 0.0
    memory_mb: tuple[float, float] = (0.0, 0.0)

    def summary(self) -> list[str]:
        return [
            f"{self.codes.total()} requests by HTTP status: {dict(sorted(self.codes.items()))}",
            f"slowest refusal {self.slowest_refusal_s:.1f} s",
            f"slowest answer {self.slowest_ratio:.2f} x the time to read as many tokens",
            "memory of all processes {:.0f} MB before, {:.0f} MB after".format(*self.memory_mb),
        ]


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
    chat = "/chat/completions"
    found: list[tuple[str, str, Any]] = []
    generated = {f"generated {number}": schema for number, schema in enumerate(schemas)}
    for name, schema in {**_SCHEMAS, **generated}.items():
        response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        messages = [{"role": "user", "content": "Answer."}]
        body: Any = {"messages": messages, "max_tokens": 8, "response_format": response_format}
        found.append((name, chat, body))
    for letter in "a!é \n0":
        messages = [{"role": "user", "content": letter * _WORD_CHARS}]
        found.append((f"a word of {letter!r}", chat, {"messages": messages, "max_tokens": 1}))
    for length in (1, context - 1, context, 131_071, 131_072, 131_073):
        body = {"prompt": [5] * length, "max_tokens": 1}
        found.append((f"{length} token ids", "/completions", body))
    found += [
        (f"token id {token_id}", "/completions", {"prompt": [token_id] * 9})
        for token_id in (num_vocab - 1, num_vocab, 2**31 - 1, 2**32, -1)
    ]
    Random(1).shuffle(found)
    return found


async def run_hostile(num_schemas: int, note: Callable[[str], None]) -> Found:
    """Send all hostile requests to one mesh on loopback. note: called with lines of progress."""
    found = Found()
    with up(prefix=_LIMITED) as mesh:
        async with httpx.AsyncClient(base_url=mesh.url, timeout=_ANSWER_LIMIT_S) as client:
            await _chat(client, found)
            await _ask(client, found, "warm", "/chat/completions", _bodies((), 9, 9)[0][2], 1.0)
            pids, before = _processes(mesh.process.pid)
            reading_s = await _seconds_of_reading(client)
            source = Random(1)
            schemas = [_schema(source) for _ in range(num_schemas)]
            asked = _bodies(schemas, 49_152, 8192)
            for number, (name, path, body) in enumerate(asked, 1):
                await _ask(client, found, name, path, body, reading_s)
                await _chat(client, found)
                if number % 20 == 0:
                    note(f"{number} of {len(asked)}")
            pids_after, after = _processes(mesh.process.pid)
        found.memory_mb = (before, after)
        if after - before > _MEMORY_LIMIT_MB:
            found.faults.append(f"memory grew by {after - before:.0f} MB")
        if not pids <= pids_after:
            found.faults.append("a node or the coordinator has ended or was restarted")
    found.faults += mesh.faults
    return found


async def _ask(
    client: httpx.AsyncClient, found: Found, name: str, path: str, body: Any, reading_s: float
) -> None:
    """Send one request and check its answer. reading_s: seconds that reading a token takes."""
    begin = time.perf_counter()
    answer = await _answer(client, found, name, path, body)
    took_s = time.perf_counter() - begin
    if answer is None:
        return
    code = answer.status_code
    found.codes[code] += 1
    if 400 <= code < 500:
        found.slowest_refusal_s = max(found.slowest_refusal_s, took_s)
        if took_s > _REFUSAL_LIMIT_S:
            found.faults.append(f"{name}: refused after {took_s:.1f} s")
    elif code == 200:
        num_tokens = answer.json()["usage"]["prompt_tokens"]
        usual_s = max(1.0, reading_s * num_tokens)
        if took_s > _PREFILL_FACTOR * usual_s + _REFUSAL_LIMIT_S:
            # Tokens of a longer prompt take longer, because each attends to more keys.
            usual_s = num_tokens * await _seconds_of_reading(client, num_tokens)
        found.slowest_ratio = max(found.slowest_ratio, took_s / usual_s)
        if took_s > _PREFILL_FACTOR * usual_s + _REFUSAL_LIMIT_S:
            found.faults.append(f"{name}: answered after {took_s:.1f} s, usual: {usual_s:.1f} s")
    else:
        found.faults.append(f"{name}: status {code}")


async def _chat(client: httpx.AsyncClient, found: Found) -> None:
    """Send an ordinary chat, which must be answered."""
    body = {"messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 4}
    name = "an ordinary chat"
    answer = await _answer(client, found, name, "/chat/completions", body)
    if answer is not None and answer.status_code != 200:
        found.faults.append(f"{name}: status {answer.status_code}")


async def _answer(
    client: httpx.AsyncClient, found: Found, name: str, path: str, body: Any
) -> httpx.Response | None:
    """Return the response; None, which is a fault, if there is none."""
    try:
        return await client.post(path, json=body)
    except httpx.HTTPError as error:
        found.faults.append(f"{name}: {type(error).__name__}")
        return None


async def _seconds_of_reading(client: httpx.AsyncClient, num_tokens: int = 2000) -> float:
    """Return the seconds per token that reading an ordinary prompt of num_tokens takes."""
    begin = time.perf_counter()
    source = Random()
    token_ids = [100 + source.randrange(20_000) for _ in range(num_tokens)]
    body = {"prompt": token_ids, "max_tokens": 1}
    (await client.post("/completions", json=body)).raise_for_status()
    return (time.perf_counter() - begin) / num_tokens


def _processes(pid: int) -> tuple[set[int], float]:
    """Return the ids of processes that must not end, and the resident memory of all, in MB.

    pid: the process of `airdraft up`. Processes that its children start may come and go.
    """
    children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return {pid, *children}, sum(map(resident_bytes, tree(pid))) / 1e6
