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
    return click.option("--workloads", type=kinds, default=default, help=help)


target_option = click.option("--target", default="smollm2-135m", help="A name or a GGUF file.")
draft_option = click.option(
    "--draft", default="", show_default="the catalogue's", help='Draft model, or "none".'
)
_max_tokens = click.option("--max-tokens", default=128)


@click.command("law1")
@click.option("--prompts", default=100)
@click.option("--max-tokens", default=64)
@click.option("--gammas", type=COUNTS, default="0,1,3,8")
@click.option("--streams", "stream_counts", type=COUNTS, default="1,4,8")
@click.option(
    "--threads",
    "thread_counts",
    type=COUNTS,
    default="1,2",
    help="Engine threads of the target.",
)
@click.option("--longest", default=1500, help="Tokens of the longest prompt.")
@target_option
@draft_option
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
@click.option("--streams", type=COUNTS, default="1,4", help="Stream counts.")
@click.option("--prompts", "num_prompts", default=16, help="Prompts of each kind.")
@_max_tokens
@click.option("--temperature", default=0.0)
@_workloads(NAMES, "chat,copy", "Kinds of prompts: chat, copy, code, code-edit, json, agentic, ...")
@target_option
@draft_option
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
@click.option("--lengths", type=COUNTS, default="32,256,1024")
@click.option("--repeats", default=5, help="Prompts of each length and kind.")
@_max_tokens
@_workloads(PLAIN_NAMES, "chat,code", "Kinds of prompts whose gaps between tokens are measured.")
@target_option
@draft_option
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
@click.option("--prompts", "num_prompts", default=10, help="Prompts of each kind.")
@_max_tokens
@_workloads(NAMES, "chat,copy", "Kinds of prompts with one turn: chat, copy, code, json, ...")
@target_option
@draft_option
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
