"""What simulated nodes are made of: texts that are more or less hard to guess, and devices.

Tokens are not computed: every one is 0, a wrong guess is 1, and a guess is right with the
probability that its stream has at its position. What a pass takes comes from the true cost tables
of the scenario, which the scheduler need not know, with log-normal noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from bench.sim.events import Clock
from policies.latency import NodeCosts

Send = Callable[[Any], None]
# Tokens of a prompt that are read at a time where there is nothing else to do.
ALONE = 256


@dataclass(frozen=True, slots=True)
class Text:
    """How hard a stream's tokens are to guess.

    alphas: chance of a guess by its position in a round. luck: (max_tokens,) of each token of the
    output, in [0, 1): a guess of it is accepted if that is below alpha. The same for every policy,
    as the text itself is by law 1. chances: (max_tokens,) of each token of the output, where some
    are harder than others and the draft knows it; () where all are alike. num_prompt_tokens: where
    the text has a prompt of its own; prompt: which, for targets keep what they have read of those
    that have a number.
    """

    alphas: tuple[float, ...]
    luck: tuple[float, ...]
    chances: tuple[float, ...] = ()
    num_prompt_tokens: int = 0
    prompt: int | None = None

    def cut(self, num_tokens: int) -> Text:
        """The same text with so many tokens of output."""
        return replace(self, luck=self.luck[:num_tokens], chances=self.chances[:num_tokens])

    def is_right(self, token: int, position: int) -> bool:
        """Whether the guess of an output token, at a position of its round, is accepted."""
        if self.chances:
            return self.luck[token] < self.chances[token]
        return self.luck[token] < self.alphas[min(position, len(self.alphas) - 1)]

    def num_likely(self, token: int, gamma: int, stop: float) -> int:
        """Guesses from an output token on until they are all right with a chance below `stop`."""
        chance = 1.0
        for position, each in enumerate(self.chances[token : token + gamma]):
            chance *= each
            if chance < stop:
                return position
        return gamma


class Engine:
    """One device: a pass at a time, each taking what the tables say and some noise."""

    def __init__(self, clock: Clock, costs: NodeCosts, noise: float, random: Random) -> None:
        self.clock, self.costs, self.noise, self.random = clock, costs, noise, random
        self.busy_s = 0.0
        self.is_busy = False

    def run_pass(
        self, num_decode: int, num_prefill: int, cells: int, done: Callable[[], None]
    ) -> None:
        # Tokens cost what tokens cost, whichever sequences of one pass they belong to.
        if num_decode:
            seconds = self.costs.decode.at(num_decode + num_prefill, cells)
        else:
            seconds = self.costs.prefill.at(num_prefill, cells)
        seconds *= self.random.lognormvariate(0.0, self.noise)
        self.busy_s += seconds
        self.is_busy = True
        self.clock.after(seconds, done)
