"""`python -m bench forced`: what guesses gain on a model at a forced acceptance.

The passes are real, and so is the choice of guesses. The guesses are not: each is the right token
with the chance that is asked for, so that models of random weights can be measured, too. No draft
runs. Its steps are charged by arithmetic.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final

import click

from airdraft.nodes.catalog import default_cache_dir
from airdraft.nodes.config.sources import environment
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.load import Opened, open_model
from airdraft.nodes.engine.noise import drawn_ids
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.messages import CHANCE_STEPS, MAX_GAMMA, ChainPart
from airdraft.nodes.target.state import TargetState
from airdraft.nodes.target.stream import Committed
from airdraft.nodes.worker.stream import StreamId, StreamSpec
from bench.options import at_least, listed

_PROMPT_TOKENS: Final = 48


class Run:
    """Texts of some streams, written once with guesses or without.

    seconds: of all passes that decode. texts: the tokens of each stream. num_guesses: that were
    taken. num_steps: most guesses of a stream, summed over passes: the steps of a draft that serves
    all streams in one batch.
    """

    def __init__(self, opened: Opened, num_streams: int, num_tokens: int) -> None:
        self._opened = opened
        self._specs = [
            StreamSpec(
                stream_id=StreamId(number + 1),
                generation=1,
                owner=f"owner {number}",
                sampling=Sampling(seed=number),
                max_tokens=num_tokens,
                stops=(),
                ignore_eog=True,
                num_prompt_tokens=_PROMPT_TOKENS,
                token_ids=tuple(drawn_ids(number, _PROMPT_TOKENS, opened.model.info.num_vocab)),
                num_leased=num_tokens,
            )
            for number in range(num_streams)
        ]
        self.seconds = 0.0
        self.num_guesses = self.num_steps = self.num_passes = 0
        self.texts: dict[int, list[int]] = {}

    def write(self, known: dict[int, list[int]], acceptance: float, seed: int) -> None:
        """Write the texts. known: as they will be; {} writes them without guesses."""
        opened, draw, chains = self._opened, random.Random(seed), itertools.count(1)
        state = TargetState(opened.model, opened.tokenizer, costs=opened.costs)
        self.texts = {spec.stream_id: [] for spec in self._specs}
        for spec in self._specs:
            # Prompt lookup would find guesses, too.
            state.open(spec if known else replace(spec, num_guesses=0))
        began, has_decoded = time.perf_counter(), False
        while state.has_work():
            for spec in self._specs if known else ():
                done = len(self.texts[spec.stream_id])
                right = known[spec.stream_id][done : done + MAX_GAMMA]
                is_right = [draw.random() < acceptance for _ in right]
                guesses = [t if ok else (t + 1) % 97 for t, ok in zip(right, is_right, strict=True)]
                chances = bytes([round(CHANCE_STEPS * acceptance)] * len(guesses))
                start = _PROMPT_TOKENS + done
                part = ChainPart(spec.stream_id, 1, next(chains), start, chances)
                state.guess(part, guesses)
            pass_began = time.perf_counter()
            events = state.step()
            now = time.perf_counter()
            state.passed(now - pass_began, now)
            commits = [event for event in events if isinstance(event, Committed)]
            for commit in commits:
                self.texts[commit.entry.stream_id] += commit.token_ids
            if has_decoded:
                self.num_passes += 1
                taken = [commit.entry.num_draft_tokens for commit in commits]
                self.num_guesses += sum(taken)
                self.num_steps += max(taken, default=0)
            elif len(commits) == len(self._specs):
                began, has_decoded = now, True
        self.seconds = time.perf_counter() - began
        state.forget_all()


@click.command("forced")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--acceptance", type=listed(float), default="0.7,0.8,0.9", help="Of each guess.")
@click.option("--streams", type=listed(int), default="1,4", help="Texts at once.")
@click.option("--threads", type=click.IntRange(min=1), default=2, help="Of the engine.")
@at_least("--turns", 3, "Turns of plain decoding and of guesses.")
@at_least("--max-tokens", 128, "Tokens of each text.", least=2)
@click.option("--snapshots", default=0, help="States of earlier tokens, instead of kept ones.")
@click.option(
    "--step", type=float, default=0.15, help="What a step of a draft is charged, in plain passes."
)
def forced_command(
    file: Path,
    acceptance: list[float],
    streams: list[int],
    threads: int,
    turns: int,
    max_tokens: int,
    snapshots: int,
    step: float,
) -> None:
    """Measure what guesses gain on a model if a chosen part of them is right.

    \b
    Example:
      python -m bench forced qwen3.5-0.8b.gguf --acceptance 0.8
    """
    config = LlamaConfig(
        path=file, num_threads=threads, max_sequences=max(streams), num_snapshots=snapshots
    )
    opened = open_model(config, default_cache_dir(environment()) / "calibration")
    with contextlib.closing(opened.model):
        info = opened.model.info
        way = "cut" if info.can_cut else "computed again" if info.can_take_back else "no guesses"
        way = f"{info.num_snapshots} snapshots" if info.num_snapshots else way
        click.echo(f"{file.name}, exact: {info.exact}, {way}; guesses are forced")
        for num_streams in streams:
            for alpha in acceptance:
                click.echo(_line(opened, num_streams, max_tokens, alpha, turns, step))


def _line(
    opened: Opened, num_streams: int, num_tokens: int, alpha: float, turns: int, step: float
) -> str:
    free, charged, sizes, same = list[float](), list[float](), list[float](), True
    plain = Run(opened, num_streams, num_tokens)
    plain.write({}, alpha, 0)
    known = plain.texts
    for turn in range(turns):
        plain, guessed = (Run(opened, num_streams, num_tokens) for _ in range(2))
        plain.write({}, alpha, turn)
        guessed.write(known, alpha, turn)
        same &= plain.texts == guessed.texts == known
        free.append(plain.seconds / guessed.seconds)
        pass_s = plain.seconds / max(1, plain.num_passes)
        charged.append(plain.seconds / (guessed.seconds + step * pass_s * guessed.num_steps))
        sizes.append(num_streams * num_tokens / max(1, guessed.num_passes))
    rate = num_streams * num_tokens / plain.seconds
    return (
        f"{num_streams} streams, acceptance {alpha:g}: {median(free):.2f} times plain "
        f"({_range(free)}), {median(charged):.2f} with steps of {step:g} passes; "
        f"{median(sizes):.2f} tokens a pass; plain {rate:.1f} tokens/s; texts equal: {same}"
    )


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"
