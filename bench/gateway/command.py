"""`python -m bench gateway`: the cost of the gateway."""

from __future__ import annotations

import click


@click.group("gateway")
def gateway() -> None:
    """Measure the HTTP gateway.

    \b
    Example:
      python -m bench gateway overhead --streams 1 --pairs 3
    """


@gateway.command("overhead")
@click.option("--streams", default="1,16", show_default=True, help="Stream counts.")
@click.option("--pairs", default=9, show_default=True, help="Pairs of runs, A B then B A.")
@click.option("--max-tokens", default=128, show_default=True)
@click.option(
    "--prompts",
    default="32,256",
    show_default=True,
    help="Prompt lengths in tokens for the time to the first token.",
)
def overhead(streams: str, pairs: int, max_tokens: int, prompts: str) -> None:
    """Compare gateway and mesh with bare llama.cpp.

    Tokens/s and the time to the first token are compared.

    \b
    Example:
      python -m bench gateway overhead --streams 1 --pairs 3
    """
    from bench.gateway.overhead import run_overhead

    run_overhead(
        [int(part) for part in streams.split(",")],
        num_pairs=pairs,
        max_tokens=max_tokens,
        prompt_lengths=[int(part) for part in prompts.split(",")],
        report=lambda figure: click.echo(str(figure)),
    )
