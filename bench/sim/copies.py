"""Simulation of prompt lookup by a target in texts that partly repeat themselves.

Token ids are drawn, some of them copied from earlier ones, and the target accepts guesses that
equal its text. Times of passes come from a table.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import fmean
from typing import Final

import click

from bench.harness.report import head, row
from bench.options import NUMBERS, at_least, streams_option
from bench.sim.scenario import Scenario, SimClient, Text
from bench.sim.world import World
from nodes.scheduler.planning import MODES
from policies.latency import CostTable, NodeCosts
from policies.plan import Link

# Seconds of a pass by its tokens: one table that hardly grows up to 16 tokens, one of a device
# limited by memory alone, and one where the second token costs more than the first.
TABLES = {
    "orin-like": CostTable(
        (1, 2, 4, 8, 16, 32, 64, 128), (36e-3, 37e-3, 38e-3, 41e-3, 44e-3, 49e-3, 80e-3, 147e-3)
    ),
    "flat": CostTable(
        (1, 8, 32, 64, 128, 256, 512), (10e-3, 10.5e-3, 11e-3, 12e-3, 14e-3, 18e-3, 28e-3)
    ),
    "steep": CostTable(
        (1, 2, 3, 4, 6, 8, 12, 16, 24, 32),
        (10.1e-3, 27.7e-3, 31.6e-3, 33.3e-3, 45e-3, 45.6e-3, 55.3e-3, 62.4e-3, 87.8e-3, 111e-3),
    ),
}
# Mean lengths in tokens of copied and of new pieces; a coin toss decides which comes next.
TEXTS = {"mostly copied": (15, 8), "partly copied": (6, 15), "hardly copied": (3, 40)}
_PROMPT_TOKENS: Final = 200
_VOCABULARY: Final = 2000
# Longer than any answer lasts, and longer than any run: each client asks once.
_SECONDS_A_TOKEN: Final = 1.0
_NEVER_S: Final = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Streams that begin together, each with a text of its own. table, text: keys of TABLES and
    TEXTS. rtt_s: round-trip time to the target."""

    table: str
    text: str
    num_streams: int
    rtt_s: float = 3e-4
    max_tokens: int = 200
    seed: int = 1


def copied_text(random: Random, count: int, copied: int, fresh: int) -> list[int]:
    """Draw `count` token ids. copied, fresh: mean lengths of copied and of new pieces."""
    ids = [random.randrange(_VOCABULARY) for _ in range(60)]
    while len(ids) < count:
        if random.random() < 0.5:
            length = max(3, int(random.expovariate(1 / copied)))
            start = random.randrange(max(1, len(ids) - length - 1))
            ids += ids[start : start + length]
        else:
            length = max(1, int(random.expovariate(1 / fresh)))
            ids += [random.randrange(_VOCABULARY) for _ in range(length)]
    return ids[:count]


def run_copies(copies: Copies, *, lookup: bool) -> float:
    """Return the mean seconds from the end of a stream's prompt to the stream's end.

    lookup: whether the target looks guesses up; otherwise it decodes plainly.
    """
    random, length = Random(copies.seed), _PROMPT_TOKENS + copies.max_tokens
    table = TABLES[copies.table]

    def client() -> SimClient:
        token_ids = tuple(copied_text(random, length, *TEXTS[copies.text]))
        text = Text((), (0.0,) * copies.max_tokens, token_ids=token_ids)
        return SimClient(num_prompt_tokens=_PROMPT_TOKENS, think_s=_NEVER_S, texts=(text,))

    scenario = Scenario(
        seed=copies.seed,
        target=NodeCosts(table, CostTable((32,), (table.at(32),))),
        drafts=(),
        clients=tuple(client() for _ in range(copies.num_streams)),
        duration_s=_SECONDS_A_TOKEN * copies.max_tokens,
        noise=0.0,
        target_link=Link(rtt_s=copies.rtt_s),
        looks_up=lookup,
    )
    result = World(scenario, MODES["open"]).run()
    assert result.num_finished == copies.num_streams
    return fmean(client.seconds for client in result.clients)


def gain(copies: Copies, seeds: Sequence[int]) -> float:
    """Return the mean over seeds of the time with plain decoding divided by that with lookup."""
    drawn = [replace(copies, seed=seed) for seed in seeds]
    return fmean(run_copies(each, lookup=False) / run_copies(each, lookup=True) for each in drawn)


@click.command("copies")
@streams_option("1,2,4,8,16")
@click.option("--rtts-ms", type=NUMBERS, default="0.3,3", help="Round trips to the target in ms.")
@at_least("--seeds", 3, "Texts of each kind.")
def copies_command(streams: list[int], rtts_ms: list[float], seeds: int) -> None:
    """Simulate the gain of lookup on repetitive texts.

    \b
    Example:
      python -m bench copies --streams 1,16 --seeds 2
    """
    click.echo(head("passes", "rtt, ms", "text", *(f"{count} streams" for count in streams)))
    for table, rtt_ms, text in itertools.product(TABLES, rtts_ms, TEXTS):
        copies = Copies(table=table, text=text, num_streams=1, rtt_s=rtt_ms / 1e3)
        drawn = range(1, seeds + 1)
        gains = (gain(replace(copies, num_streams=count), drawn) for count in streams)
        click.echo(row(table, f"{rtt_ms:g}", text, *(f"{each:.2f}" for each in gains)))
