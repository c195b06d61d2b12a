"""`python -m bench gateway`: the cost of the gateway."""

from __future__ import annotations

import click

from bench.results.options import COUNTS


@click.group("gateway")
def gateway() -> None:
    """Measure the HTTP gateway.

    \b
    Example:
      python -m bench gateway overhead --streams 1 --pairs 3
    """


@gateway.command("overhead")
@click.option("--streams", type=COUNTS, default="1,16", show_default=True, help="Stream counts.")
@click.option("--pairs", default=9, show_default=True, help="Pairs of runs, A B then B A.")
@click.option("--max-tokens", default=128, show_default=True)
@click.option(
    "--prompts",
    type=COUNTS,
    default="32,256",
    show_default=True,
    help="Prompt lengths in tokens for the time to the first token.",
)
def overhead(streams: list[int], pairs: int, max_tokens: int, prompts: list[int]) -> None:
    """Compare gateway and mesh with bare llama.cpp.

    Tokens/s and the time to the first token are compared.

    \b
    Example:
      python -m bench gateway overhead --streams 1 --pairs 3
    """
    from bench.gateway.overhead import run_overhead

    run_overhead(
        streams,
        num_pairs=pairs,
        max_tokens=max_tokens,
        prompt_lengths=prompts,
        report=lambda figure: click.echo(str(figure)),
    )
