"""Let a node open no further file, which connections and processes need too, while it serves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Iterator
from random import Random
from typing import Final

from airdraft.nodes.client.client import MeshClient, RequestFailedError
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.engine.rules import Grammar, LogitRules
from bench.chaos.endurance.disk_roles import smallest_model
from bench.chaos.kills.backdrop import Run, backdrop
from bench.harness.cases import toy_cases
from bench.harness.fleet import COORDINATOR, Setup, fleet
from bench.harness.history import GRACE_S
from bench.harness.processes import tree
from bench.harness.report import Findings, counts

# Fewer than a process has open.
_NO_FILES: Final = 4
_LIMIT_S: Final = 60.0
# A node tries to connect every half second.
_MOST_RECOVERY_S: Final = 2.0
_REFUSAL: Final = "unavailable: the grammar cannot be checked on this node: "
_NUM_CASES: Final = 48


async def node_starved(role: str, seconds: float, seed: int = 1) -> Findings:
    """Starve the target or draft node of files under load, and restart the coordinator meanwhile.

    seconds: time without files, once before and once after the restart.
    """
    name, setup = f"{role}-0", Setup(num_targets=1, num_drafts=1, target_model="toy:1@5ms")
    run = Run(seed=seed, num_streams=4, setup=setup)
    async with backdrop(run, toy_cases(Random(seed), _NUM_CASES)) as scene:
        mesh, ends = scene.fleet, scene.tally.ends
        async with mesh.clients(1) as (client,):
            # A grammar that a node knows needs no process.
            await _with_grammar(client, "[0-9 ]+")
            with _starved(mesh.process(name).pid):
                num_before = ends["finished"]
                answer = await _with_grammar(client, "[0-4 ]+")
                await asyncio.sleep(seconds)
                num_served = ends["finished"] - num_before
                await scene.end(COORDINATOR)
                restarted_at = mesh.now()
                await mesh.start(COORDINATOR)
                await asyncio.sleep(seconds)
            began = mesh.now()
            joined_at = await mesh.wait_changed(
                name, restarted_at, has_left=False, limit_s=_LIMIT_S
            )
            answer_after = await _with_grammar(client, "[0-4 ]+")
            # Others must not have waited for this node, so the time counts from the files.
            recovered_s = max(0.0, joined_at - began)
        words = mesh.log(name).read_text(errors="replace")
    tally, what = scene.tally, f"{role} without files"
    found = Findings(
        [
            f"{what}: {num_served} requests finished before the coordinator was restarted, in all "
            f"{counts(tally.ends)}; it joined the next coordinator {recovered_s:.2f} s after it "
            "had files again",
            f"  a grammar: {answer!r}, and afterwards {answer_after!r}",
        ],
        [f"{what}: {fault}" for fault in tally.faults],
    )
    # A stream whose draft node cannot check its grammar is decoded without guesses.
    is_right = answer.startswith(_REFUSAL) if role == "target" else answer == answer_after
    faults = {
        "a grammar was not refused in one line": not is_right or "\n" in answer,
        "a grammar does not work again": set(answer_after) - set("01234 ") or not answer_after,
        "no request finished meanwhile": not num_served,
        f"{tally.ends['failed']} requests failed": tally.ends["failed"],
        f"it joined only after {recovered_s:.2f} s": recovered_s > _MOST_RECOVERY_S,
        "its log has a traceback": "Traceback" in words,
    }
    found.faults += [f"{what}: {fault}" for fault, is_so in faults.items() if is_so]
    return found


async def texts_starved(seconds: float) -> Findings:
    """Starve a target of the process that reads texts, for so many seconds.

    Raises ClickException if there is no model on this machine.
    """
    setup = Setup(num_targets=1, num_drafts=0, target_model=str(smallest_model()), cells=1024)
    found = Findings()
    async with fleet(setup) as mesh, mesh.clients(1) as (client,):
        await mesh.wait_for(client)
        before = await _text(client, _LIMIT_S)
        with _starved(mesh.process("target-0").pid):
            began = mesh.now()
            waiting = asyncio.create_task(_text(client, _LIMIT_S))
            refused = await _text(client, seconds)
            took_s = mesh.now() - began
        freed_at = mesh.now()
        waited = await waiting
        recovered_s = mesh.now() - freed_at
        code = await mesh.terminate("target-0")
        words = mesh.log("target-0").read_text(errors="replace")
        found.faults += mesh.accidents
    found.lines.append(
        f"target that cannot start its process for texts: {refused!r} after {took_s:.1f} s; a "
        f"request that waited longer finished {recovered_s:.1f} s after it had files again"
    )
    faults = {
        f"a text ends by another error: {refused}": not refused.startswith("deadline: "),
        f"late: ended after {took_s:.2f} s of {seconds:g} s": took_s > seconds + GRACE_S,
        f"texts differ: {before!r}, {waited!r}": not before or before != waited,
        "its log does not say why": "could not tokenize a text" not in words,
        "its log has a traceback": "Traceback" in words,
        f"exit code {code}": code,
    }
    found.faults += [f"target without texts: {fault}" for fault, is_so in faults.items() if is_so]
    return found


async def _text(client: MeshClient, timeout_s: float) -> str:
    options = GenerateOptions(
        max_tokens=8, chat=False, timeout_s=timeout_s, temperature=0, ignore_eog=True
    )
    return await _answer(client, "Once upon a time", options)


@contextlib.contextmanager
def _starved(pid: int) -> Iterator[None]:
    """Let a process open nothing inside the block, and end its children, so that it needs new ones.

    Those are the processes that read texts and check grammars.
    """
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (_NO_FILES, hard))
    try:
        for child in tree(pid)[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


async def _with_grammar(client: MeshClient, word: str) -> str:
    rules = LogitRules(grammar=Grammar("gbnf", f"root ::= {word}"))
    options = GenerateOptions(max_tokens=8, chat=False, timeout_s=_LIMIT_S, rules=rules)
    return await _answer(client, "digits", options)


async def _answer(client: MeshClient, prompt: str, options: GenerateOptions) -> str:
    """Returns the text of a request, or its error."""
    text = b""
    try:
        async for event in client.generate(prompt, options):
            text += getattr(event, "text", b"")
    except RequestFailedError as error:
        return f"{error.code}: {error}"
    return text.decode(errors="replace")
