"""The gain of guesses: a pair on one machine, with planned guesses and without, in turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import median

from bench.asking import Answer, Pair, converse, rate, rules_of, taken_of
from bench.harness.report import head, row
from bench.load.workloads import workload
from bench.pairs import in_turns, paired_ratio
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions
from nodes.service.local import local_mesh

HEAD = head(
    *("prompts", "streams", "plain tokens/s", "auto / plain, median (95 % interval)"),
    *("tokens a pass with guesses", "accepted", "same texts"),
)
Group = Sequence[tuple[str, GenerateOptions]]


async def run_speed(
    counts: Sequence[int],
    kinds: Sequence[str],
    pair: Pair,
    *,
    num_prompts: int,
    max_tokens: int,
    temperature: float,
    report: Callable[[str], None],
) -> None:
    """Report a table of the ratio of the two rates, by workload and number of streams.

    The same prompts are answered with gamma auto and with gamma 0, one after the other. report:
    receives each row as soon as it is measured.
    """
    options = GenerateOptions(max_tokens=max_tokens, temperature=temperature, seed=1, top_p=0.95)
    report(HEAD)
    target, draft = pair.settings()
    async with local_mesh(target, draft, lookup=pair.looks_up) as (mesh, client):
        for kind in kinds:
            made = workload(kind, num_prompts)
            requests = [
                (prompt, replace(options, rules=rules_of(made, k)))
                for k, prompt in enumerate(made.prompts)
            ]
            warm_up = [(prompt, replace(option, max_tokens=24)) for prompt, option in requests[:1]]
            await mesh.beside(_together(client, [warm_up], None, 0))
            for count in counts:
                groups = [requests[at : at + count] for at in range(0, len(requests), count)]
                report(await mesh.beside(_row(client, made.name, count, groups)))


async def _row(client: Client, kind: str, count: int, groups: Sequence[Group]) -> str:
    sides = (partial(_together, client, groups, gamma) for gamma in (0, None))
    turns = await in_turns(len(groups), *sides)
    rates = [(rate(plain), rate(auto)) for plain, auto in turns]
    same = [
        a.token_ids == b.token_ids
        for plain, auto in turns
        for a, b in zip(plain, auto, strict=True)
    ]
    taken = taken_of(answer for _, auto in turns for answer in auto)
    tokens = (taken.num_rounds + taken.num_accepted) / max(1, taken.num_rounds)
    accepted = f"{taken.acceptance:.2f} of {taken.num_guesses}" if taken.num_guesses else "-"
    return row(
        *(kind, count, f"{median(plain for plain, _ in rates):.1f}", paired_ratio(rates)),
        f"{tokens:.2f} in {taken.guessing_share:.2f} of passes",
        *(accepted, f"{sum(same)} of {len(same)}"),
    )


async def _together(
    client: Client, groups: Sequence[Group], gamma: int | None, turn: int
) -> list[Answer]:
    """Send all requests of the turn's group at once, with this gamma."""
    return await asyncio.gather(
        *(
            converse(client, prompt, replace(options, gamma=gamma))
            for prompt, options in groups[turn]
        )
    )
