"""`python -m bench law1|speed|first|bound`: pairs of models on one machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import click

from bench.harness.options import Decorator
from bench.harness.report import conclude
from bench.load.workloads import NAMES, PLAIN_NAMES
from bench.results.options import COUNTS, listed


def _workloads(names: Sequence[str], default: str, help: str) -> Decorator:
    kinds = listed(accepted=lambda: names)
    return click.option("--workloads", type=kinds, default=default, show_default=True, help=help)


_target = click.option(
    "--target", default="smollm2-135m", show_default=True, help="A name or a GGUF file."
)
_draft = click.option(
    "--draft", default="", help='Draft model, or "none". Default: that of the catalogue.'
)
_max_tokens = click.option("--max-tokens", default=128, show_default=True)


@click.command("law1")
@click.option("--prompts", default=100, show_default=True)
@click.option("--max-tokens", default=64, show_default=True)
@click.option("--gammas", type=COUNTS, default="0,1,3,8", show_default=True)
@click.option("--streams", "stream_counts", type=COUNTS, default="1,4,8", show_default=True)
@click.option(
    "--threads",
    "thread_counts",
    type=COUNTS,
    default="1,2",
    show_default=True,
    help="Engine threads of the target.",
)
@click.option("--longest", default=1500, show_default=True, help="Tokens of the longest prompt.")
@_target
@_draft
def law1_command(prompts: int, longest: int, **options: Any) -> None:
    """Check that a real pair's texts equal those of a loop.

    Token ids from a mesh are compared with those of a plain loop over one sequence.

    \b
    Example:
      python -m bench law1 --prompts 10 --gammas 0,4 --streams 4
    """
    from bench.law1 import run_law1
    from bench.prompts import make_prompts

    conclude(run_law1(texts=make_prompts(prompts, longest=longest), **options))


@click.command("speed")
@click.option("--streams", type=COUNTS, default="1,4", show_default=True, help="Stream counts.")
@click.option(
    "--prompts", "num_prompts", default=16, show_default=True, help="Prompts of each kind."
)
@_max_tokens
@click.option("--temperature", default=0.0, show_default=True)
@_workloads(NAMES, "chat,copy", "Kinds of prompts: chat, copy, code, code-edit, json, agentic, ...")
@_target
@_draft
@click.option(
    "--lookup/--no-lookup",
    "looks_up",
    default=True,
    help="Let targets also look for guesses in earlier texts.",
)
@click.option("--weights", type=click.Choice(["auto", "as-stored"]), default="auto")
def speed_command(
    streams: list[int],
    workloads: list[str],
    target: str,
    draft: str,
    looks_up: bool,
    weights: str,
    **options: Any,
) -> None:
    """Compare planned guesses with plain decoding.

    A pair of models decodes the same prompts in both ways, in alternating order.

    \b
    Examples:
      python -m bench speed --streams 1 --prompts 8
      python -m bench speed --target big.gguf --draft small.gguf --workloads code,json
    """
    from bench.asking import Pair
    from bench.speed import run_speed

    pair = Pair(target, draft, looks_up, weights)
    asyncio.run(run_speed(streams, workloads, pair, **options, report=click.echo))


@click.command("first")
@click.option("--lengths", type=COUNTS, default="32,256,1024", show_default=True)
@click.option("--repeats", default=5, show_default=True, help="Prompts of each length and kind.")
@_max_tokens
@_workloads(PLAIN_NAMES, "chat,code", "Kinds of prompts whose gaps between tokens are measured.")
@_target
@_draft
def first_command(
    lengths: list[int], workloads: list[str], target: str, draft: str, **options: Any
) -> None:
    """Measure the time to the first token, and the gaps between tokens.

    The first token is compared with a bare llama.cpp loop that reads as long a prompt.

    \b
    Example:
      python -m bench first --target big.gguf --draft small.gguf --lengths 64,1024
    """
    from bench.asking import Pair
    from bench.first import run_first

    pair = Pair(target, draft)
    asyncio.run(run_first(pair, lengths, workloads, **options, report=click.echo))


@click.command("bound")
@click.option(
    "--prompts", "num_prompts", default=10, show_default=True, help="Prompts of each kind."
)
@_max_tokens
@_workloads(NAMES, "chat,copy", "Kinds of prompts with one turn: chat, copy, code, json, ...")
@_target
@_draft
def bound_command(workloads: list[str], target: str, draft: str, **options: Any) -> None:
    """Compare one stream's speed with its draft's bound.

    The bound is the highest speed that the draft's guesses allow.

    \b
    Example:
      python -m bench bound --target big.gguf --draft small.gguf --workloads code,json
    """
    from bench.asking import Pair
    from bench.bound import run_bound

    if draft == "none":
        raise click.ClickException("--draft none: the bound is that of a draft; name a model")
    run_bound(workloads, Pair(target, draft), **options, report=click.echo)


COMMANDS = (
    law1_command,
    speed_command,
    first_command,
    bound_command,
)
