"""`python -m bench speed|bound`: the gain of guesses with a pair of models, and its upper bound."""

from __future__ import annotations

import click

_target = click.option(
    "--target", default="smollm2-135m", show_default=True, help="A name or a GGUF file."
)
_max_tokens = click.option("--max-tokens", default=128, show_default=True)


@click.command("speed")
@click.option("--streams", default="1,4", show_default=True, help="Stream counts.")
@click.option("--prompts", default=16, show_default=True, help="Prompts of each kind.")
@_max_tokens
@click.option("--temperature", default=0.0, show_default=True)
@click.option(
    "--workloads",
    default="chat,copy",
    show_default=True,
    help="Kinds of prompts: chat, copy, code, code-edit, json, agentic, ...",
)
@_target
@click.option("--draft", default="", help='Draft model, or "none". Default: that of the catalogue.')
@click.option(
    "--lookup/--no-lookup",
    default=True,
    help="Let targets also look for guesses in earlier texts.",
)
@click.option("--weights", type=click.Choice(["auto", "as-stored"]), default="auto")
def speed_command(
    streams: str,
    prompts: int,
    max_tokens: int,
    temperature: float,
    workloads: str,
    target: str,
    draft: str,
    lookup: bool,
    weights: str,
) -> None:
    """Compare planned guesses with plain decoding.

    A pair of models decodes the same prompts in both ways, in alternating order.

    \b
    Examples:
      python -m bench speed --streams 1 --prompts 8
      python -m bench speed --target big.gguf --draft small.gguf --workloads code,json
    """
    from bench.speed import Pair, run_speed

    run_speed(
        [int(part) for part in streams.split(",")],
        workloads.split(","),
        Pair(target, draft, lookup, weights),
        num_prompts=prompts,
        max_tokens=max_tokens,
        temperature=temperature,
        report=click.echo,
    )


@click.command("bound")
@click.option("--prompts", default=10, show_default=True, help="Prompts of each kind.")
@_max_tokens
@click.option(
    "--workloads",
    default="chat,copy",
    show_default=True,
    help="Kinds of prompts with one turn: chat, copy, code, code-edit, json, ...",
)
@_target
@click.option("--draft", default="", help="Draft model. Default: that of the catalogue.")
def bound_command(prompts: int, max_tokens: int, workloads: str, target: str, draft: str) -> None:
    """Compare one stream's speed with its draft's bound.

    The bound is the highest speed that the draft's guesses allow.

    \b
    Example:
      python -m bench bound --target big.gguf --draft small.gguf --workloads code,json
    """
    from bench.bound import run_bound
    from bench.speed import Pair

    if draft == "none":
        raise click.ClickException("--draft none: the bound is that of a draft; name a model")
    run_bound(
        workloads.split(","),
        Pair(target, draft),
        num_prompts=prompts,
        max_tokens=max_tokens,
        report=click.echo,
    )


COMMANDS = (speed_command, bound_command)
