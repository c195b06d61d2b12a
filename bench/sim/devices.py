"""What simulated nodes are made of: texts that are more or less hard to guess, and devices.

What a pass takes comes from the true cost tables of the scenario, which the scheduler need not
know, with log-normal noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from bench.sim.events import Clock
from policies.latency import NodeCosts


@dataclass(frozen=True, slots=True)
class Text:
    """How hard a stream's tokens are to guess.

    alphas: chance of a guess by its place after the last committed token. luck: (max_tokens,) of
    each token of the output, in [0, 1): a guess of it is right if that is below its chance. The
    same for every mode of planning, as the text itself is by law 1. chances: (max_tokens,) of each
    token of the output, where some are harder than others and the draft model knows it; () where
    all are alike. believed: the draft model's own estimate of alphas; () where it has none.
    num_prompt_tokens: where the text has a prompt of its own; prompt: which, for targets keep what
    they have read of those that have a number.
    """

    alphas: tuple[float, ...]
    luck: tuple[float, ...]
    chances: tuple[float, ...] = ()
    believed: tuple[float, ...] = ()
    num_prompt_tokens: int = 0
    prompt: int | None = None

    def cut(self, num_tokens: int) -> Text:
        """The same text with so many tokens of output."""
        return replace(self, luck=self.luck[:num_tokens], chances=self.chances[:num_tokens])


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
