"""Speed with planned guesses and without, on repetitive texts, where guesses are very good."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import click

from bench.live.machine import TargetFiles
from bench.live.pairs import Ratio, paired_ratio
from bench.load.workloads import workload
from bench.speed import Answer, ask_one, rate
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions
from nodes.config.settings import EngineSettings
from nodes.service.local import local_mesh

_KINDS = ("code-edit", "copy", "long-answer", "chat")
# Guesses in a pass while prompts are chosen: enough that a single wrong guess is noticed.
_GAMMA = 4
# Fewer guesses than this in a text do not show how good they are.
_LEAST_GUESSES = 16


@dataclass(slots=True)
class Found:
    """Measurements with the chosen prompts. pairs: plain and planned tokens/s of each prompt."""

    num_tried: int = 0
    acceptances: list[float] = field(default_factory=list)
    pairs: list[tuple[float, float]] = field(default_factory=list)
    num_rounds: int = 0
    num_steps: int = 0
    num_guesses: int = 0
    num_accepted: int = 0
    num_equal: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def ratio(self) -> Ratio:
        return paired_ratio(self.pairs)

    def add(self, plain: Answer, planned: Answer) -> None:
        (figures,) = planned.figures
        self.pairs.append((rate([plain]), rate([planned])))
        self.num_rounds += figures.num_rounds
        self.num_steps += figures.num_plain_steps
        self.num_guesses += figures.num_draft_tokens
        self.num_accepted += figures.num_accepted_tokens
        self.num_equal += plain.token_ids == planned.token_ids
        if figures.plain_reason:
            self.reasons[figures.plain_reason] += 1

    def row(self, target: str) -> str:
        share = self.num_rounds / max(1, self.num_rounds + self.num_steps)
        accepted = self.num_accepted / max(1, self.num_guesses)
        # A pass with guesses commits the accepted ones and one token of the target's own.
        by_guesses = self.num_accepted + self.num_rounds
        of_tokens = by_guesses / max(1, by_guesses + self.num_steps)
        return (
            f"| {target} | {len(self.pairs)} of {self.num_tried} "
            f"| {median(self.acceptances):.2f} | {median(p for p, _ in self.pairs):.1f} "
            f"| {self.ratio} | {share:.2f} | {of_tokens:.2f} "
            f"| {accepted:.2f} of {self.num_guesses} | {self.num_equal} of {len(self.pairs)} |"
        )


HEAD = (
    "| target | prompts | their acceptance | plain tokens/s | planned / plain (95 %) "
    "| passes with guesses | of tokens | accepted | same texts |\n|" + "---|" * 9
)


def run_good_guesses(
    targets: Sequence[str],
    *,
    num_prompts: int,
    least: float,
    max_tokens: int,
    report: Callable[[str], None],
) -> list[Found]:
    """Measure one stream at a time, with guesses from its own text; report a row per target."""
    report(HEAD)
    made = []
    with tempfile.TemporaryDirectory(prefix="airdraft-good-") as folder:
        files = TargetFiles(Path(folder))
        for target in targets:
            found = asyncio.run(_of_target(files.target(target), num_prompts, least, max_tokens))
            report(found.row(target) if found.pairs else f"| {target} | none of the prompts |")
            made.append(found)
    return made


async def _of_target(path: Path, num_prompts: int, least: float, max_tokens: int) -> Found:
    settings = EngineSettings(model=str(path), max_streams=4, threads=1)
    options = GenerateOptions(max_tokens=max_tokens, ignore_eog=True, seed=1)
    found = Found()
    async with local_mesh(settings, None, lookup=True) as (mesh, client):
        await mesh.beside(_measured(client, options, num_prompts, least, found))
    return found


async def _measured(
    client: Client, options: GenerateOptions, num_prompts: int, least: float, found: Found
) -> None:
    await ask_one(client, "Count to ten.", replace(options, max_tokens=24))
    chosen: list[str] = []
    for prompt in _candidates():
        found.num_tried += 1
        (figures,) = (await ask_one(client, prompt, replace(options, gamma=_GAMMA))).figures
        if figures.num_draft_tokens < _LEAST_GUESSES:
            continue
        acceptance = figures.num_accepted_tokens / figures.num_draft_tokens
        if acceptance >= least:
            found.acceptances.append(acceptance)
            chosen.append(prompt)
        if len(chosen) == num_prompts:
            break
    for turn, prompt in enumerate(chosen):
        pair = [replace(options, gamma=0), options]
        answers = {}
        # The order alternates from prompt to prompt, because a machine's speed drifts.
        for option in pair if turn % 2 else pair[::-1]:
            answers[option.gamma] = await ask_one(client, prompt, option)
        found.add(answers[0], answers[None])


def _candidates() -> Iterator[str]:
    """Yield each prompt once, kind by kind; their answers repeat the prompt or themselves."""
    kinds = [workload(kind).prompts for kind in _KINDS]
    yield from dict.fromkeys(prompt for prompts in kinds for prompt in prompts)


@click.command("good-guesses")
@click.option("--targets", default="Q8_0,F16", show_default=True)
@click.option("--prompts", default=20, show_default=True)
@click.option(
    "--least", default=0.92, show_default=True, help="Use prompts with at least this acceptance."
)
@click.option("--max-tokens", default=192, show_default=True)
def good_guesses_command(targets: str, prompts: int, least: float, max_tokens: int) -> None:
    """Measure the gain where guesses are nearly always right.

    One stream decodes with looked-up guesses as planned, and plainly.

    \b
    Example:
      python -m bench good-guesses --targets Q8_0 --prompts 4
    """
    made = run_good_guesses(
        targets.split(","),
        num_prompts=prompts,
        least=least,
        max_tokens=max_tokens,
        report=click.echo,
    )
    for found in made:
        for reason, count in found.reasons.most_common(3):
            click.echo(f"{count} x {reason}")
