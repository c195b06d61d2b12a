"""Lookup on texts that partly repeat themselves, in virtual time: it pays, or it costs nothing.

Token ids are drawn, some of them copied from earlier ones, and the target accepts guesses that
equal its text. Times of passes come from a table.
"""

from collections.abc import Sequence
from random import Random
from statistics import fmean

import pytest

from airdraft.nodes.scheduler.planning import MODES
from airdraft.policies.latency import CostTable, NodeCosts
from airdraft.policies.plan import Link
from bench.sim.scenario import Scenario, SimClient, Text
from bench.sim.world import World

# Seconds of a pass by its tokens: one table that hardly grows up to 16 tokens, one of a device
# limited by memory alone, and one where the second token costs more than the first.
TABLES = {
    "orin-like": CostTable(
        (1, 2, 4, 8, 16, 32, 64), (36e-3, 37e-3, 38e-3, 41e-3, 44e-3, 49e-3, 80e-3)
    ),
    "flat": CostTable((1, 8, 32, 64, 128, 256), (10e-3, 10.5e-3, 11e-3, 12e-3, 14e-3, 18e-3)),
    "steep": CostTable((1, 2, 4, 8, 16, 32), (10.1e-3, 27.7e-3, 33.3e-3, 45.6e-3, 62.4e-3, 111e-3)),
}
# Mean lengths in tokens of copied and of new pieces; a coin toss decides which comes next.
TEXTS = {"mostly copied": (15, 8), "partly copied": (6, 15), "hardly copied": (3, 40)}
PROMPT_TOKENS, VOCABULARY = 200, 2000


def copied_text(random: Random, count: int, copied: int, fresh: int) -> tuple[int, ...]:
    ids = [random.randrange(VOCABULARY) for _ in range(60)]
    while len(ids) < count:
        if random.random() < 0.5:
            length = max(3, int(random.expovariate(1 / copied)))
            start = random.randrange(max(1, len(ids) - length - 1))
            ids += ids[start : start + length]
        else:
            length = max(1, int(random.expovariate(1 / fresh)))
            ids += [random.randrange(VOCABULARY) for _ in range(length)]
    return tuple(ids[:count])


def seconds(
    table: str, text: str, streams: int, *, lookup: bool, seed: int, rtt_s: float, length: int
) -> float:
    """The mean time from the end of a stream's prompt to its end; all streams begin together."""
    random, costs = Random(seed), TABLES[table]

    def client() -> SimClient:
        token_ids = copied_text(random, PROMPT_TOKENS + length, *TEXTS[text])
        own = Text((), (0.0,) * length, token_ids=token_ids)
        # Each client asks once.
        return SimClient(num_prompt_tokens=PROMPT_TOKENS, think_s=1e9, texts=(own,))

    scenario = Scenario(
        seed=seed,
        target=NodeCosts(costs, CostTable((32,), (costs.at(32),))),
        drafts=(),
        clients=tuple(client() for _ in range(streams)),
        duration_s=float(length),
        noise=0.0,
        target_link=Link(rtt_s=rtt_s),
        looks_up=lookup,
    )
    result = World(scenario, MODES["open"]).run()
    assert result.num_finished == streams
    return fmean(client.seconds for client in result.clients)


def gain(
    table: str,
    text: str,
    streams: int,
    seeds: Sequence[int] = (1,),
    rtt_s: float = 3e-4,
    length: int = 120,
) -> float:
    """The time of plain decoding to that with lookup."""

    def took(seed: int, *, lookup: bool) -> float:
        return seconds(table, text, streams, lookup=lookup, seed=seed, rtt_s=rtt_s, length=length)

    return fmean(took(seed, lookup=False) / took(seed, lookup=True) for seed in seeds)


@pytest.mark.parametrize("num_streams", [1, 4, 16])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("table", TABLES)
def test_lookup_is_never_slower_than_plain_and_a_far_target_gains_as_much(
    table: str, text: str, num_streams: int
) -> None:
    """A target looks up by itself: nothing has to travel for a guess."""
    near = gain(table, text, num_streams, (1, 2))
    assert near > 0.97
    if num_streams == 4:
        assert gain(table, text, 4, rtt_s=30e-3) > 0.97 * gain(table, text, 4)


def test_short_answers_of_many_streams_gain_too() -> None:
    assert gain("orin-like", "partly copied", 16, (2, 5), length=30) > 1.0


def test_the_more_is_copied_the_more_is_gained() -> None:
    gains = [gain("flat", text, 2, (1, 2), length=200) for text in TEXTS]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 1.5
