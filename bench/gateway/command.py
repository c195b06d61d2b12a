"""`python -m bench gateway`: tests of the gateway against odd clients, and its cost."""

from __future__ import annotations

import asyncio

import click

from bench.harness.report import conclude


@click.group("gateway")
def gateway() -> None:
    """Measure the HTTP gateway, and test it with bad clients.

    \b
    Example:
      python -m bench gateway fuzz --examples 1000
    """


@gateway.command("fuzz")
@click.option("--examples", default=10_000, show_default=True)
def fuzz(examples: int) -> None:
    """Send bodies of every kind to a gateway process.

    A status of 500 or a hang is a fault.

    \b
    Example:
      python -m bench gateway fuzz --examples 10000
    """
    from bench.gateway.fuzz import run_fuzz

    conclude(run_fuzz(examples))


@gateway.command("idle")
@click.option("--streams", default=10_000, show_default=True)
def idle(streams: int) -> None:
    """Measure memory and delay with many idle streams.

    The delay is that of another request's first token.

    \b
    Example:
      python -m bench gateway idle --streams 1000
    """
    from bench.gateway.idle import run_idle

    click.echo(str(run_idle(streams)))


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


@gateway.command("canary")
@click.option("--pair", is_flag=True, help="Use the default pair of models, not toy models.")
def canary(*, pair: bool) -> None:
    """Search a mesh's logs and files for a word of prompts.

    Command lines, environments and pages for operators are searched, too.

    \b
    Example:
      python -m bench gateway canary --pair
    """
    from bench.gateway.canary import run_canary
    from nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET

    models = (DEFAULT_TARGET, DEFAULT_DRAFT) if pair else ()
    conclude(asyncio.run(run_canary(*models)))
