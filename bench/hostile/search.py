"""`python -m bench hostile-search`: generated attacks on a mesh, beside a user who is timed.

A turn sends a number of hostile items, and then for comparison as much of what is harmless. Figures
of one run are compared only with each other, because the machine may be shared.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any, Final

import click

from airdraft.nodes.gateway.apikeys import FILE_NAME, ApiKey, ApiKeys, digest, new_key
from bench.harness.fleet import COORDINATOR, Fleet, Setup, add_keys, fleet
from bench.harness.report import Findings, counts, note
from bench.hostile.attacks import PARTS, Against, Part, Where, attack, listen
from bench.hostile.items import Outcome, under_way
from bench.hostile.members import KEYS
from bench.hostile.watching import GATEWAY, Heard, Watch
from bench.options import at_least, seed_option

# No key's gaps may become longer than this beside another's: law 7, and the tail for p99.
_MEDIAN_FACTOR: Final = 1.5
_P99_FACTOR: Final = 5.0
# So long takes a phase at least, for gaps enough.
_LEAST_S: Final = 5.0
_CALM_LIMIT_S: Final = 30.0
# What is noticed at some time may have begun so long before.
_NOTICED_S: Final = 1.0
_REPEATS: Final = 20
_MOST_NAMED: Final = 8
_TARGET: Final = "target-0"
_processes = get_context("forkserver")


@dataclass(frozen=True, slots=True)
class AttackPhase:
    """A phase of attack and what it is compared to."""

    hostile: Heard
    compared: Heard
    outcomes: Sequence[Outcome]

    def ratios(self) -> tuple[float, float]:
        """How many times as long the median and the p99 of the gaps are."""
        hostile, compared = self.hostile.quantiles(), self.compared.quantiles()
        return hostile[0] / compared[0], hostile[1] / compared[1]

    def longest(self) -> str:
        """The longest gap, and the items that were under way in it."""
        if not self.hostile.gaps:
            return "no token came"
        at, gap_s = max(self.hostile.gaps, key=lambda gap: gap[1])
        return f"longest gap {gap_s:.2f} s, beside {_named(self.outcomes, at - gap_s, at)}"


def _named(outcomes: Sequence[Outcome], begin: float, end: float) -> str:
    """Name the items that were under way between two times, as many as a line has room for."""
    found = sorted(under_way(outcomes, begin, end).items())
    return ", ".join(f"{number} ({name})" for number, name in found[:_MOST_NAMED]) or "nothing"


def _counted(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, part in reversed([*PARTS.items()]):
        flag, text = f"--{name}", f"{part.what.capitalize()}; 0 skips this part."
        command = at_least(flag, part.count, text, least=0)(command)
    return command


@click.command("hostile-search")
@_counted
@at_least("--turns", 5, "Turns of each part, whose ratios' median decides.")
@seed_option
@click.option("--only", type=int, help="Number of an item, which is sent again and again.")
def hostile_search_command(turns: int, seed: int, only: int | None, **wanted: int) -> None:
    """Search for what stops a mesh, or slows the streams of another key.

    \b
    Example:
      python -m bench hostile-search --strangers 0 --http 0 --grammars 0 --frames 0 --bodies 100
    """
    has_faults = False
    for name, count in wanted.items():
        if count:
            numbers = range(count) if only is None else [only] * _REPEATS
            found = asyncio.run(search(name, numbers, turns, seed)).findings()
            # A part takes minutes, and what follows may be interrupted.
            click.echo(str(found))
            has_faults |= bool(found.faults)
    sys.exit(has_faults)


@dataclass(frozen=True, slots=True)
class Found:
    """What a part of the search has found. alone: of the user, before the first turn."""

    name: str
    seed: int
    alone: Heard
    turns: Sequence[AttackPhase]
    watch: Watch

    @property
    def outcomes(self) -> list[Outcome]:
        return [outcome for turn in self.turns for outcome in turn.outcomes]

    def findings(self) -> Findings:
        faults = (f"{self.name}, seed {self.seed}: {fault}" for fault in _faults(self))
        return Findings(_report(self), list(faults))


async def search(name: str, numbers: Sequence[int], num_turns: int, seed: int) -> Found:
    """Run one part of the search. numbers: of its items."""
    part, turns = PARTS[name], list[AttackPhase]()
    async with _mesh(part) as (mesh, keys), _discarding() as discard_port:
        key = "" if part.beside is Against.DISCARDED else keys["mallory"]
        where = Where(mesh.port(GATEWAY), key, mesh.endpoint, mesh.folder, discard_port)
        watch = Watch(mesh, keys["alice"])
        with _attacker() as send:
            async with watch.running():
                await asyncio.sleep(_LEAST_S)
                alone = watch.take()
                for turn in range(num_turns):
                    first, end = (len(numbers) * at // num_turns for at in (turn, turn + 1))
                    chosen = numbers[first:end]
                    turns.append(await _turn(watch, partial(send, name), part, where, seed, chosen))
                    note(f"{name}: turn {turn + 1} of {num_turns}: {_ratios(turns[-1:])}")
                    if watch.ended:
                        break
    return Found(name, seed, alone, turns, watch)


async def _turn(
    watch: Watch,
    send: Callable[..., Any],
    part: Part,
    where: Where,
    seed: int,
    numbers: Sequence[int],
) -> AttackPhase:
    await watch.calm(_CALM_LIMIT_S)
    outcomes, _ = await asyncio.gather(
        send(Against.HOSTILE, where, seed, numbers), asyncio.sleep(_LEAST_S)
    )
    hostile = watch.take()
    # What is left of the attack must not slow what it is compared to.
    await watch.calm(_CALM_LIMIT_S)
    # By its place among the numbers, because one may occur more than once.
    twins = sorted(outcomes, key=lambda outcome: outcome.began)
    await asyncio.gather(
        send(part.beside, where, seed, [twin.number for twin in twins], twins),
        asyncio.sleep(_LEAST_S),
    )
    compared = watch.take()
    return AttackPhase(hostile, compared, outcomes)


def _ratios(turns: Sequence[AttackPhase]) -> str:
    median, p99 = (
        statistics.median(each) for each in zip(*(t.ratios() for t in turns), strict=True)
    )
    return f"gaps' median {median:.2f} and p99 {p99:.2f} times as long"


def _report(found: Found) -> list[str]:
    part, turns, watch, outcomes = PARTS[found.name], found.turns, found.watch, found.outcomes
    ends = Counter(outcome.end for outcome in outcomes)
    lines = [
        f"{len(outcomes)} {part.what} ({counts(ends)}): {_ratios(turns)} as beside "
        f"{part.beside.value}, median of {len(turns)} turns"
    ]
    phases = {"alone": [found.alone]} | {
        "beside them": [turn.hostile for turn in turns],
        "compared": [turn.compared for turn in turns],
    }
    for what, heards in phases.items():
        gaps = [heard.quantiles() for heard in heards]
        p50, p99, most = (statistics.median(each) * 1e3 for each in zip(*gaps, strict=True))
        first_s = max((s for heard in heards for s in heard.first_s), default=float("nan"))
        names = heards[0].cores
        cores = (f"{n} {statistics.mean(h.cores.get(n, 0.0) for h in heards):.2f}" for n in names)
        lines.append(
            f"  {what}: gaps {p50:.1f} ms, p99 {p99:.0f} ms, longest {most:.0f} ms, first token at "
            f"most {first_s:.2f} s; cores: {', '.join(cores)}"
        )
    silences = (
        f"{name} {end - begin:.2f} s beside {_named(outcomes, begin, end)}"
        for name, (begin, end) in watch.silences.items()
    )
    worst = max(turns, key=lambda turn: turn.ratios()[1])
    return [
        *lines,
        f"  worst turn: {worst.longest()}",
        f"  peak memory in MB: {watch.memory()}",
        *(f"  longest silence: {silence}" for silence in silences),
    ]


def _faults(found: Found) -> Iterator[str]:
    for at, text in [*found.watch.ended, *found.watch.faults]:
        yield f"{text}; under way: {_named(found.outcomes, at - _NOTICED_S, at)}"
    yield from slower(found.turns)


def slower(turns: Sequence[AttackPhase]) -> Iterator[str]:
    """Faults of gaps that are too long beside what they are compared to."""
    for index, (what, most) in enumerate((("median", _MEDIAN_FACTOR), ("p99", _P99_FACTOR))):
        ratios = [turn.ratios()[index] for turn in turns]
        # A ratio is no number if no token came.
        if not (ratio := statistics.median(ratios)) <= most:
            worst = turns[ratios.index(max(ratios))]
            text = f"the {what} of gaps is {ratio:.2f} times as long, of {most} that are allowed"
            yield f"{text}: {worst.longest()}"


@contextlib.asynccontextmanager
async def _mesh(part: Part) -> AsyncIterator[tuple[Fleet, Mapping[str, str]]]:
    """Run a mesh with keys for its links, hostile ones among them, and API keys by name."""
    setup = Setup(
        num_targets=1,
        num_drafts=0,
        num_gateways=1,
        target_model=part.model,
        max_streams=64,
        fresh=True,
    )
    async with fleet(setup, starts=()) as mesh:
        add_keys(mesh.folder, mesh.endpoint, KEYS)
        keys = {name: new_key() for name in ("alice", "mallory")}
        file = ApiKeys(mesh.keys(GATEWAY) / FILE_NAME)
        for name, key in keys.items():
            file.add(ApiKey(name=name, sha256=digest(key)))
        for name in (COORDINATOR, _TARGET, GATEWAY):
            await mesh.start(name)
        await mesh.wait_joined(_TARGET)
        await mesh.wait_printed(GATEWAY)
        yield mesh, keys


@contextlib.contextmanager
def _attacker() -> Iterator[Callable[..., Any]]:
    """Yield a coroutine function that runs attacks in another process."""
    with ProcessPoolExecutor(1, mp_context=_processes) as pool:

        async def send(name: str, *arguments: Any) -> Any:
            return await asyncio.get_running_loop().run_in_executor(pool, attack, name, *arguments)

        yield send


@contextlib.asynccontextmanager
async def _discarding() -> AsyncIterator[int]:
    """Run a listener that discards what it gets, and yield its port."""
    here, there = _processes.Pipe(duplex=False)
    process = _processes.Process(target=listen, args=(there.send,), daemon=True)
    process.start()
    try:
        yield await asyncio.to_thread(here.recv)
    finally:
        process.kill()
        process.join()
        process.close()
        here.close()
        there.close()
