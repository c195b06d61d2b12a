"""How close one stream with guesses comes to the highest speed that its draft allows.

The bound assumes that it is known beforehand which guesses are right, that messages take no time,
and that passes begin at the best moments. Nobody can know the first, so a second figure is beside
it: open flow, in which nobody knows which guesses are right, with messages that take no time. The
times of passes and steps are also measured while the other side works, because both may share
memory.
"""

from __future__ import annotations

import asyncio
import math
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final

import click
import numpy as np

from bench.asking import Pair, plain_and_auto, rate, requests_of, warm_up_of
from bench.decoding import guesses_of, pass_times
from bench.harness.report import head, row
from bench.load.workloads import PLAIN_NAMES, workload
from bench.options import at_least, draft_option, max_tokens_option, target_option, workloads_option
from bench.pairs import paired_ratio
from nodes.client.generation import GenerateOptions
from nodes.config.settings import EngineSettings
from nodes.engine.rules import LogitRules
from nodes.engine.sampling import Sampling
from nodes.messages import MAX_GAMMA
from nodes.service.local import local_mesh

PASS_SIZES: Final = (1, 2, 3, 4, 6, 8, 12, 16)
# Length of a timing: enough for a few dozen passes of each size with a 1.5B model on one core.
_TIMED_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt and its answer as token ids. Rates are those of the answer in the mesh, tokens/s."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    rules: LogitRules
    plain_rate: float
    auto_rate: float


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of a draft's step, and of a target's pass by its number of tokens."""

    step_s: float
    pass_s: Mapping[int, float]

    def of_pass(self, num_tokens: int) -> float:
        return float(np.interp(num_tokens, list(self.pass_s), list(self.pass_s.values())))


def runs_of(right: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Yield (number of tokens, number of right guesses) of each run of tokens up to a wrong guess.

    A run ends with the target's own token in place of the wrong guess.
    """
    num_right = 0
    for is_right in right:
        if is_right:
            num_right += 1
        else:
            yield num_right + 1, num_right
            num_right = 0
    if num_right:
        yield num_right, num_right


def run_s(num_tokens: int, num_right: int, costs: Costs) -> float:
    """Return the least seconds in which a run can be committed.

    Guess k is ready k steps after the run began, since the draft continues from right tokens. So
    the best passes form a shortest path through the tokens: from each token, a pass with any number
    of guesses that begins as soon as they are ready.
    """
    most = min(num_right, MAX_GAMMA)
    passes = [costs.of_pass(size) for size in range(1, most + 2)]
    at = [0.0] + [math.inf] * num_tokens
    for done in range(num_tokens):
        for num_guesses in range(min(most, num_right - done) + 1):
            begins = max(at[done], (done + num_guesses) * costs.step_s if num_guesses else 0.0)
            end = min(num_tokens, done + num_guesses + 1)
            at[end] = min(at[end], begins + passes[num_guesses])
    return at[num_tokens]


def bound_rate(right: Sequence[bool], costs: Costs) -> float:
    """Return the highest tokens/s after the first token. right: whether each guess is right."""
    return len(right) / sum(run_s(*run, costs) for run in runs_of(right))


def open_flow_rate(right: Sequence[bool], costs: Costs) -> float:
    """Return the tokens/s after the first token in open flow with messages that take no time.

    A pass begins when the last one ends. It takes as many of the guesses that are there as promise
    the most tokens a second, if each is right with the mean chance. The draft guesses on all the
    time, and begins anew where a pass found a wrong guess.
    """
    chance = float(np.mean(right))
    gains = np.cumsum(chance ** np.arange(MAX_GAMMA + 1))
    passes = np.array([costs.of_pass(size) for size in range(1, MAX_GAMMA + 2)])
    now, done = 0.0, 0
    chain_at, chain_began = 0, 0.0
    while done < len(right):
        num_made = int((now - chain_began) / costs.step_s) + chain_at - done
        most = min(num_made, MAX_GAMMA, len(right) - 1 - done)
        num_taken = int(np.argmax(gains[: most + 1] / passes[: most + 1]))
        now += float(passes[num_taken])
        taken = right[done : done + num_taken]
        done += taken.index(False) if False in taken else num_taken
        # The target's own token comes in place of the next guess. If that is wrong, or was not made
        # yet, the draft goes on from the token.
        made = chain_began + (done - chain_at + 1) * costs.step_s
        if not right[done] or made > now:
            chain_at, chain_began = done + 1, now
        done += 1
    return len(right) / now


HEAD: Final = head(
    *("prompts", "plain tokens/s", "with guesses", "right", "bound"),
    *("of the bound, median (95 % interval)", "open flow", "of open flow, median (95 % interval)"),
    *("bound of two such machines", "of a free draft"),
)


@click.command("bound")
@at_least("--prompts", 10, "Prompts of each kind.", "num_prompts")
@max_tokens_option
@workloads_option(
    (*PLAIN_NAMES, "json"),
    "chat,copy",
    "Kinds of prompts with one turn: chat, copy, code, json, ...",
)
@target_option
@draft_option
def bound_command(
    num_prompts: int, max_tokens: int, workloads: list[str], target: str, draft: str
) -> None:
    """Compare one stream's speed with its draft's bound.

    The bound is the highest speed that the draft's guesses allow. Nothing is looked up.

    \b
    Example:
      python -m bench bound --target big.gguf --draft small.gguf --workloads code,json
    """
    engine, other = Pair(target, draft).settings()
    if other is None:
        raise click.ClickException("--draft none: the bound is that of a draft; name a model")
    options = GenerateOptions(max_tokens=max_tokens, seed=1)
    texts = asyncio.run(_texts(engine, other, workloads, num_prompts, options))
    every = [text for found in texts.values() for text in found]
    if not every:
        raise click.ClickException("no answer has a second token: use other --workloads")
    cells = round(median(len(text.prompt_ids) + len(text.token_ids) // 2 for text in every))
    with _process(engine, False) as passes, _process(other, True) as steps:
        alone, beside = _costs(passes, steps, cells)
        click.echo(HEAD)
        for kind, found in texts.items():
            right = [steps.submit(_right_of, text).result() for text in found]
            click.echo(_row(kind, found, right, alone, beside))


def _row(
    kind: str, texts: Sequence[Text], right: Sequence[list[bool]], alone: Costs, beside: Costs
) -> str:
    """Return a workload's row. alone, beside: costs while the other side is idle, and works."""
    free = replace(alone, step_s=0.0)
    bounds = [bound_rate(each, beside) for each in right]
    flows = [open_flow_rate(each, beside) for each in right]
    autos = [text.auto_rate for text in texts]
    numbers = (
        f"{median(text.plain_rate for text in texts):.1f}",
        f"{median(text.auto_rate for text in texts):.1f}",
        f"{np.mean([one for each in right for one in each]):.2f}",
        f"{median(bounds):.1f}",
    )
    others = (median(bound_rate(each, costs) for each in right) for costs in (alone, free))
    of_bound, of_flow = (
        paired_ratio(list(zip(rates, autos, strict=True))) for rates in (bounds, flows)
    )
    return row(
        kind, *numbers, of_bound, f"{median(flows):.1f}", of_flow, *(f"{o:.1f}" for o in others)
    )


async def _texts(
    target: EngineSettings,
    draft: EngineSettings,
    kinds: Sequence[str],
    num_prompts: int,
    options: GenerateOptions,
) -> dict[str, list[Text]]:
    """Answer each prompt in a mesh, plainly and with guesses, in alternating order."""
    found: dict[str, list[Text]] = {}
    async with local_mesh(target, draft, lookup=False) as (mesh, client):
        for kind in kinds:
            requests = requests_of(workload(kind, num_prompts), options)
            await mesh.beside(plain_and_auto(client, [warm_up_of(requests)]))
            turns = await mesh.beside(plain_and_auto(client, [[each] for each in requests]))
            for (prompt, asked), ((plain,), (auto,)) in zip(requests, turns, strict=True):
                assert auto.token_ids == plain.token_ids, "guesses changed a text"
                read = await mesh.beside(client.read(prompt, asked, "tokens"))
                if len(auto.token_ids) > 1:
                    known = read.prompt_token_ids, auto.token_ids, asked.rules
                    text = Text(*known, rate([plain]), rate([auto]))
                    found.setdefault(kind, []).append(text)
    return found


# -- each side in a process of its own ------------------------------------------------------------


def _costs(passes: Executor, steps: Executor, cells: int) -> tuple[Costs, Costs]:
    """Measure the costs of each side alone, and of both while they work at the same time."""
    found = []
    for name, is_alone in (("alone", True), ("at the same time", False)):
        passing = passes.submit(_timed, PASS_SIZES, cells)
        if is_alone:
            passing.result()
        step_s = steps.submit(_timed, (1,), cells).result()[1]
        found.append(Costs(step_s, passing.result()))
        sizes = ", ".join(f"{size}: {s * 1e3:.1f}" for size, s in passing.result().items())
        click.echo(f"{name}: a step {step_s * 1e3:.1f} ms; passes in ms by tokens: {sizes}")
    click.echo()
    return found[0], found[1]


def _process(settings: EngineSettings, is_draft: bool) -> Executor:
    spawning = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, spawning, _open, (settings, is_draft))


# In the process of a side: its model, and the grammars of its tokens.
_opened: dict[str, Any] = {}


def _open(settings: EngineSettings, is_draft: bool) -> None:
    from nodes.engine.grammar import Grammars
    from nodes.worker.engines import in_tokens_of_targets, open_engine

    opened = open_engine(settings, is_draft=is_draft)
    model, piece = in_tokens_of_targets(opened, settings)
    words = piece, model.info.num_vocab, model.info.eog_token_ids
    _opened.update(model=model, grammars=Grammars(*words))


def _timed(sizes: Sequence[int], cells: int) -> dict[int, float]:
    return pass_times(_opened["model"], sizes, cells, _TIMED_S)


def _right_of(text: Text) -> list[bool]:
    """Return which of the draft's guesses of an answer are right, but for its first token."""
    sampling = Sampling(rules=text.rules)
    asked = text.prompt_ids, text.token_ids, sampling, _opened["grammars"]
    guesses, _ = guesses_of(_opened["model"], *asked)
    return [a == b for a, b in zip(guesses, text.token_ids, strict=True)][1:]
