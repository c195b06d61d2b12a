"""Parts of simulated nodes: texts that are more or less hard to guess, and devices.

The time of a pass comes from the scenario's true cost tables, which the scheduler need not know,
with log-normal noise.
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

    alphas: chance of a guess by its place after the last committed token. luck: (max_tokens,), a
    number in [0, 1) for each output token; a guess of it is right if this is below its chance. By
    law 1 the luck, like the text, is the same for every mode of planning. chances: (max_tokens,),
    the chance of each output token if some are harder than others and the draft model knows it; ()
    if all are alike. believed: the draft model's own estimate of alphas; () if it has none.
    num_prompt_tokens: length of the text's own prompt; 0 if the client sets it. prompt: number of
    the prompt, by which targets keep prompts that they have read; None if it has no number.
    token_ids: the tokens of prompt and output, which only a target without draft nodes can have; ()
    if all are alike.
    """

    alphas: tuple[float, ...]
    luck: tuple[float, ...]
    chances: tuple[float, ...] = ()
    believed: tuple[float, ...] = ()
    num_prompt_tokens: int = 0
    prompt: int | None = None
    token_ids: tuple[int, ...] = ()

    def cut(self, num_tokens: int) -> Text:
        """Return the same text with num_tokens tokens of output."""
        return replace(self, luck=self.luck[:num_tokens], chances=self.chances[:num_tokens])


class Engine:
    """One device. It runs one pass at a time, for as long as the cost tables say, with noise."""

    def __init__(self, clock: Clock, costs: NodeCosts, noise: float, random: Random) -> None:
        self.clock, self.costs, self.noise, self.random = clock, costs, noise, random
        self.busy_s = 0.0
        self.is_busy = False

    def run_pass(
        self, num_decode: int, num_prefill: int, cells: int, done: Callable[[], None]
    ) -> None:
        # A token costs the same whichever sequence of the pass it belongs to.
        if num_decode:
            seconds = self.costs.decode.at(num_decode + num_prefill, cells)
        else:
            seconds = self.costs.prefill.at(num_prefill, cells)
        seconds *= self.random.lognormvariate(0.0, self.noise)
        self.busy_s += seconds
        self.is_busy = True
        self.clock.after(seconds, done)
