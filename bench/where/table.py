"""`python -m bench where`: the time that each process of a mesh spends while streams decode."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import click

from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.config.settings import EngineSettings
from airdraft.nodes.service.supervision import engine_options
from bench.asking import Pair
from bench.harness.fleet import COORDINATOR, Fleet, FleetError, Setup, fleet
from bench.harness.processes import cpu_s
from bench.harness.report import head, note, row
from bench.load.asking import Endpoint, ask
from bench.load.workloads import PLAIN_NAMES, workload
from bench.options import at_least, draft_option, streams_option, target_option
from bench.where.node import STEP

_STARTS_WITHIN_S = 300.0
_TELLS_WITHIN_S = 5.0
_CLOCKLESS = (COORDINATOR, "gateway-0")

# Values of a node's clocks by name, as node.py writes them.
Clock = Mapping[str, float]


def since(before: Clock, after: Clock) -> Clock:
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


@dataclass(frozen=True, slots=True)
class Window:
    """Times while all streams decoded. draft: None without a draft node. cpu_s: processor time of
    the processes without clocks, by role. rtt_s: round-trip time of heartbeats, by role.
    """

    num_streams: int
    target: Clock
    draft: Clock | None
    cpu_s: dict[str, float]
    rtt_s: dict[str, float]


async def _clock(mesh: Fleet, role: str) -> Clock:
    """Returns the current values of a node's clocks."""
    log = mesh.folder / f"{role}.clocks"
    length = log.stat().st_size if log.exists() else 0
    mesh.process(f"{role}-0").signal(signal.SIGUSR2)

    def line() -> bytes | None:
        written = log.read_bytes()[length:] if log.exists() else b""
        return written if written.endswith(b"\n") else None

    what = f"the {role} has not told its clocks"
    found: dict[str, float] = json.loads(await mesh.until(line, _TELLS_WITHIN_S, what))
    return found


async def windows(
    target: EngineSettings,
    draft: EngineSettings | None,
    prompts: Sequence[str],
    counts: Sequence[int],
    max_tokens: int,
) -> list[Window]:
    """Measure a window for each number of streams. draft: None to decode plainly.

    Raises FleetError if the mesh does not serve.
    """
    engines = {"target": target} | ({"draft": draft} if draft is not None else {})
    setup = Setup(
        num_targets=1, num_drafts=len(engines) - 1, num_gateways=1, over="ipc", fresh=True
    )
    found = []
    async with fleet(setup, starts=()) as mesh, mesh.clients(1) as (client,):
        looks_up = str(draft is not None).lower()
        await mesh.start(COORDINATOR, environ={"AIRDRAFT_PROMPT_LOOKUP": looks_up})
        for role, engine in engines.items():
            options = mesh.folder / f"{role}.clocks", role, *engine_options(engine)
            mesh.start_module(f"{role}-0", "bench.where.node", *options)
        await mesh.start("gateway-0")
        await mesh.wait_joined(*(f"{role}-0" for role in engines), limit_s=_STARTS_WITHIN_S)
        await mesh.wait_ready("gateway-0", _STARTS_WITHIN_S)
        for count in counts:
            note(f"{count} streams{'' if draft is not None else ', plainly'}")
            asked = [prompts[k % len(prompts)] for k in range(count)]
            found.append(await _window(mesh, client, asked, max_tokens, list(engines)))
    return found


async def _window(
    mesh: Fleet, client: MeshClient, prompts: Sequence[str], max_tokens: int, roles: Sequence[str]
) -> Window:
    endpoint = Endpoint(url=mesh.url("gateway-0"), model="")
    count = len(prompts)
    clockless = {name.removesuffix("-0"): mesh.process(name).pid for name in _CLOCKLESS}

    async def request(prompt: str, length: int, heard: Callable[[], None]) -> None:
        found = await ask(endpoint, prompt, max_tokens=length, heard=heard)
        if found.error:
            raise FleetError(f"a request failed: {found.error}")

    # The target reads the prompts beforehand, so that only decoding is timed.
    for prompt in dict.fromkeys(prompts):
        await request(prompt, 2, lambda: None)
    all_decode, one_is_done = asyncio.Event(), asyncio.Event()
    silent = set(range(count))

    def heard(number: int) -> None:
        silent.discard(number)
        if not silent:
            all_decode.set()

    async def stream(number: int) -> None:
        await request(prompts[number], max_tokens, lambda: heard(number))
        one_is_done.set()

    async def observed() -> Window:
        await all_decode.wait()
        before = {role: await _clock(mesh, role) for role in roles}
        cpu_before = {role: cpu_s([pid]) for role, pid in clockless.items()}
        began = time.perf_counter()
        await one_is_done.wait()
        cpu = {role: cpu_s([pid]) - cpu_before[role] for role, pid in clockless.items()}
        seconds = time.perf_counter() - began
        found = {role: since(clock, await _clock(mesh, role)) for role, clock in before.items()}
        return Window(
            count,
            found["target"],
            found.get("draft"),
            # Scaled to the time between the two readings of the target's clocks.
            {role: s * found["target"]["at"] / seconds for role, s in cpu.items()},
            {node.role: node.rtt_us * 1e-6 for node in (await client.nodes()).nodes},
        )

    streams = asyncio.gather(*(stream(number) for number in range(count)))
    window, _ = await asyncio.gather(observed(), streams)
    return window


# Consecutive parts of the work of the target's engine thread; with BETWEEN they add up to the time
# of a token.
PARTS: Final = {
    "the model's passes": "model",
    "sampling, checking guesses": "sampling",
    "choosing guesses": "choosing",
    "bytes of tokens, stops": "text",
    "cells of wrong guesses": "cache",
    "the rest of passes": STEP,
}
BETWEEN: Final = "between passes"


def parts_ms(window: Window, each: float) -> dict[str, float]:
    """Returns the target's milliseconds by part of its work; the sum is all its time. each: factor
    from seconds to these milliseconds, such as those per token."""
    found = {
        label: window.target.get(f"seconds in {of}", 0.0) * each for label, of in PARTS.items()
    }
    return {**found, BETWEEN: window.target["at"] * each - sum(found.values())}


def figures_of(window: Window) -> dict[str, str]:
    """Returns figures by their labels, in ms per token unless a label says otherwise.

    A mesh without a draft node has none of it, and one without such a link no round trip.
    """
    target, draft = window.target, window.draft
    num_tokens = max(1.0, target.get("tokens committed", 0.0))
    num_passes = max(1.0, target.get("calls of model", 0.0))
    each = 1e3 / num_tokens
    found = {
        "tokens a pass and stream": num_tokens / num_passes / window.num_streams,
        "positions a pass": target.get("tokens fed", 0.0) / num_passes,
        "ms a pass": 1e3 * target.get("seconds in model", 0.0) / num_passes,
        "**ms a token**": target["at"] * each,
        **{f"target: {label}": ms for label, ms in parts_ms(window, each).items()},
    }
    if draft is not None:
        for label, of in (
            ("its model", "model"),
            ("sampling", "sampling"),
            ("the rest of steps", STEP),
        ):
            found[f"beside: draft, {label}"] = draft.get(f"seconds in {of}", 0.0) * each
        busy_s = sum(s for name, s in draft.items() if name.startswith("seconds in "))
        found["draft: ms a step"] = 1e3 * busy_s / max(1.0, draft.get(f"calls of {STEP}", 0.0))
        found["draft: share of the time"] = busy_s / draft["at"]
    found["processor: target's messages"] = (target["cpu_s"] - target["engine_cpu_s"]) * each
    found |= {f"processor: {role}": seconds * each for role, seconds in window.cpu_s.items()}
    found |= {f"link: round trip to the {role}, ms": 1e3 * s for role, s in window.rtt_s.items()}
    shown = {label: f"{value:.2f}" for label, value in found.items()}
    return {"tokens/s, all streams": f"{num_tokens / target['at']:.1f}", **shown}


def table(windows: Sequence[Window]) -> str:
    """Returns a table with a column for each window."""
    plain = ("with guesses", "plain")
    names = (f"{window.num_streams}, {plain[window.draft is None]}" for window in windows)
    columns = [figures_of(window) for window in windows]
    labels = max((list(column) for column in columns), key=len)
    rows = (row(label, *(column.get(label, "-") for column in columns)) for label in labels)
    return "\n".join([head("streams", *names), *rows])


@click.command("where")
@target_option
@draft_option
@click.option("--workload", "kind", type=click.Choice(PLAIN_NAMES), default="code")
@streams_option("1,4,16")
@at_least("--max-tokens", 192, least=16)
def where_command(target: str, draft: str, kind: str, streams: list[int], max_tokens: int) -> None:
    """Measure where the time of a token goes.

    Each role is a process of its own. Those of target and draft have clocks inside.

    \b
    Example:
      python -m bench where --streams 1,4
    """
    prompts = workload(kind, max(streams)).prompts
    engine, other = Pair(target, draft).settings()
    found: list[Window] = []
    for each in dict.fromkeys((other, None)):
        found += asyncio.run(windows(engine, each, prompts, streams, max_tokens))
    click.echo(table(sorted(found, key=lambda window: window.num_streams)))
