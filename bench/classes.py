"""Test of law 1 between target processes: a request gets one text, whichever target serves it.

Three targets load files of one name. Two load the same file, one with profile exact and one with
profile fast, which are two numerics classes; the third loads another file. Requests come from the
official client of the HTTP API.
"""

from __future__ import annotations

import asyncio
import random
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openai import APIStatusError, AsyncOpenAI

from bench.harness.fleet import Fleet, Setup
from bench.harness.processes import nursery
from bench.harness.up import ALL_TOKENS
from bench.prompts import make_prompts
from nodes.catalog import DEFAULT_TARGET, Catalog, default_cache_dir
from nodes.config.settings import environment
from nodes.messages import NodeFields

_OTHER_FILE = "smollm2-135m-q4_0"
_TARGETS = "target-0", "target-1", "target-2"
_ATTEMPTS = 3
# The first prompts of each hundred are long. They are left out, since reading them would take most
# of a run.
_NUM_LONG = 4
# Streams of each target: far fewer than the requests at once, so that most requests wait.
_MAX_STREAMS = 4

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Case:
    """A request, and how it selects its target: by a model or by a fingerprint (pinned)."""

    kind: str
    prompt: str
    seed: int
    temperature: float
    max_tokens: int
    streams: bool
    model: str
    pinned: str = ""


@dataclass(slots=True)
class Found:
    """Answers by case. A case is right if its answers are equal and have the wanted fingerprint.

    wanted: the right fingerprint of each kind of case. told_while_down: fingerprints of answers
    while target-0 was down. refusals: error messages of requests that named its fingerprint then.
    """

    answers: dict[Case, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    wanted: dict[str, str] = field(default_factory=dict)
    told_while_down: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    num_others: int = 0

    @property
    def num_wrong(self) -> int:
        texts = sum(len(set(answers)) > 1 for answers in self.answers.values())
        fingerprints = sum(
            any(fingerprint != self.wanted[case.kind] for _, fingerprint in answers)
            for case, answers in self.answers.items()
        )
        down = sum(found != self.wanted["fast"] for found in self.told_while_down)
        return (
            texts
            + fingerprints
            + down
            + sum("no target with" not in line for line in self.refusals)
        )

    def table(self) -> str:
        rows = [
            "| chosen by | requests | answers | fingerprint | texts differ | wrong fingerprint |"
        ]
        rows.append("|---|---|---|---|---|---|")
        for kind in dict.fromkeys(case.kind for case in self.answers):
            mine = [answers for case, answers in self.answers.items() if case.kind == kind]
            differ = sum(len({text for text, _ in answers}) > 1 for answers in mine)
            others = sum(any(t != self.wanted[kind] for _, t in answers) for answers in mine)
            rows.append(
                f"| {kind} | {len(mine)} | {sum(map(len, mine))} | {self.wanted[kind]} "
                f"| {differ} | {others} |"
            )
        rows.append(
            f"\nWith the exact target down: {len(self.told_while_down)} answers, all of "
            f"{', '.join(sorted(set(self.told_while_down)))}; {len(self.refusals)} requests that "
            f"named its fingerprint were refused: {self.refusals[0]}. Other requests that ran "
            f"beside these: {self.num_others}."
        )
        return "\n".join(rows)


async def _ask(client: AsyncOpenAI, case: Case) -> tuple[str, str]:
    """Send a request; return its text and fingerprint."""
    common: dict[str, Any] = {
        "model": case.model,
        "prompt": case.prompt,
        "seed": case.seed,
        "temperature": case.temperature,
        "max_tokens": case.max_tokens,
        "extra_body": dict(ALL_TOKENS),
    }
    if case.pinned:
        common["extra_body"]["system_fingerprint"] = case.pinned
    if not case.streams:
        whole = await client.completions.create(**common)
        return whole.choices[0].text, whole.system_fingerprint or ""
    text, fingerprints = "", set()
    async for chunk in await client.completions.create(**common, stream=True):
        text += chunk.choices[0].text
        fingerprints.add(chunk.system_fingerprint or "")
    return text, " ".join(sorted(fingerprints))


def make_cases(count: int, max_tokens: int, kinds: Sequence[tuple[str, str, str]]) -> list[Case]:
    """Return `count` requests. kinds: (name, model, fingerprint), used in turns."""
    order = random.Random(count)
    prompts = make_prompts(_NUM_LONG + count, seed=7)[_NUM_LONG:]
    made = []
    for number, prompt in enumerate(prompts):
        kind, model, pinned = kinds[number % len(kinds)]
        temperature = 0.8 if number % 4 else 0.0
        size = order.randrange(max_tokens // 2, max_tokens + 1)
        streams = number % 2 == 0
        made.append(Case(kind, prompt, number, temperature, size, streams, model, pinned))
    return made


async def _attempt(
    client: AsyncOpenAI, cases: Sequence[Case], found: Found, order: random.Random, at_once: int
) -> None:
    """Send all requests in random order, beside other requests that come and go."""
    todo = iter(order.sample(cases, len(cases)))
    is_over = asyncio.Event()

    async def worker() -> None:
        for case in todo:
            found.answers[case].append(await _ask(client, case))

    async def other(number: int) -> None:
        source = random.Random(number + order.randrange(1 << 20))
        while not is_over.is_set():
            case = source.choice(cases)
            pinned = source.choice(("", found.wanted["fast"]))
            model = "" if pinned else case.model
            await client.completions.create(
                model=model,
                prompt=case.prompt,
                max_tokens=source.randrange(1, 40),
                extra_body={"system_fingerprint": pinned} if pinned else {},
            )
            found.num_others += 1

    async with asyncio.TaskGroup() as group:
        others = [group.create_task(other(number)) for number in range(4)]
        async with asyncio.TaskGroup() as asking:
            for _ in range(at_once):
                asking.create_task(worker())
        is_over.set()
        await asyncio.wait(others)


async def _run(count: int, max_tokens: int, at_once: int, note: Note) -> Found:
    catalog = Catalog(default_cache_dir(environment()))
    default = catalog.ensure(DEFAULT_TARGET)
    setup = Setup(
        num_targets=len(_TARGETS),
        num_drafts=0,
        num_gateways=1,
        target_model=DEFAULT_TARGET,
        max_streams=_MAX_STREAMS,
        fresh=True,
    )
    with tempfile.TemporaryDirectory(prefix="airdraft-classes-") as folder:
        # A different file of the same name, whose texts differ.
        other = Path(folder) / "other" / default.name
        other.parent.mkdir()
        other.symlink_to(catalog.ensure(_OTHER_FILE))
        (Path(folder) / "mesh").mkdir()
        async with nursery() as nest:
            mesh = Fleet(nest, Path(folder) / "mesh", setup)
            await mesh.start("coordinator")
            await mesh.start("gateway-0")
            await mesh.start("target-0")
            await mesh.start("target-1", "--profile", "fast")
            await mesh.start("target-2", "--model", str(other), "--cells", "4096")
            return await _measure(mesh, default.name, count, max_tokens, at_once, note)


async def _measure(
    mesh: Fleet, name: str, count: int, max_tokens: int, at_once: int, note: Note
) -> Found:
    found = Found()
    async with mesh.clients(1) as (member,):
        await mesh.wait_for(member, limit_s=300)
        nodes = {node.node: node for node in (await member.nodes()).nodes}
        exact, fast, other = (nodes[mesh.node(target)] for target in _TARGETS)
        await mesh.is_ready("gateway-0", limit_s=300)
        url = mesh.url("gateway-0")
        async with AsyncOpenAI(base_url=url, api_key="none", timeout=600, max_retries=0) as client:
            ids = {model.id async for model in await client.models.list()}
            note(f"models: {', '.join(sorted(ids))}")
            (of_other,) = (found_id for found_id in ids if _names(found_id, other))
            kinds = [
                ("the name alone", name, ""),
                ("name@hash of the other file", of_other, ""),
                ("fingerprint", "", _fingerprint(exact)),
            ]
            found.wanted = {
                kinds[0][0]: _fingerprint(exact),
                kinds[1][0]: _fingerprint(other),
                kinds[2][0]: _fingerprint(exact),
                "fast": _fingerprint(fast),
            }
            cases = make_cases(count, max_tokens, kinds)
            for attempt in range(_ATTEMPTS):
                if attempt == _ATTEMPTS - 1:
                    await _while_down(mesh, client, cases, found)
                    await mesh.start("target-0")
                    await mesh.wait_for(member, limit_s=300)
                await _attempt(client, cases, found, random.Random(attempt), at_once)
                note(f"attempt {attempt + 1} of {_ATTEMPTS}: {found.num_wrong} wrong")
    return found


async def _while_down(
    mesh: Fleet, client: AsyncOpenAI, cases: Sequence[Case], found: Found
) -> None:
    await mesh.kill("target-0")
    by_name = [case for case in cases if case.kind == "the name alone"]
    for case in by_name[:20]:
        # The text comes from the other numerics class and may differ.
        found.told_while_down.append((await _ask(client, case))[1])
    for case in [case for case in cases if case.pinned][:5]:
        try:
            found.refusals.append(f"answered by {(await _ask(client, case))[1]}")
        except APIStatusError as error:
            found.refusals.append(error.message)


def _fingerprint(node: NodeFields) -> str:
    """Return the fingerprint of a node, derived again from what the coordinator shows of it."""
    return f"fp_{node.model_hash[:8]}_{node.numerics_class[:8]}"


def _names(model_id: str, node: NodeFields) -> bool:
    return re.fullmatch(rf"{re.escape(node.model)}@{node.model_hash[:8]}", model_id) is not None


def run_classes(count: int, max_tokens: int, at_once: int, note: Note) -> Found:
    """Send `count` requests of at most max_tokens tokens three times each, at_once at a time."""
    return asyncio.run(_run(count, max_tokens, at_once, note))
