"""`python -m bench gateway`: what clients may do to the gateway, and what it costs."""

from __future__ import annotations

import sys

import click


@click.group("gateway")
def gateway() -> None:
    """The HTTP gateway with toy models behind it.

    \b
    Example:
      python -m bench gateway fuzz --examples 1000
    """


@gateway.command("fuzz")
@click.option("--examples", default=10_000, show_default=True)
def fuzz(examples: int) -> None:
    """Bodies of every kind at a gateway process: no 500, and no hang.

    \b
    Example:
      python -m bench gateway fuzz --examples 10000
    """
    from bench.gateway.fuzz import run_fuzz

    findings = run_fuzz(examples)
    click.echo(str(findings))
    sys.exit(1 if findings.faults else 0)


@gateway.command("idle")
@click.option("--streams", default=10_000, show_default=True)
def idle(streams: int) -> None:
    """Streams on which nothing comes: memory of each, and how soon another request begins.

    \b
    Example:
      python -m bench gateway idle --streams 1000
    """
    from bench.gateway.idle import run_idle

    click.echo(str(run_idle(streams)))


@gateway.command("cost")
@click.option("--streams", default="1,16", show_default=True, help="Stream counts.")
@click.option("--tokens", default=4_000, show_default=True, help="Tokens of each measurement.")
def cost(streams: str, tokens: int) -> None:
    """Processor time of the gateway for each token that it sends.

    \b
    Example:
      python -m bench gateway cost --streams 16
    """
    from bench.gateway.cost import run_cost

    for part in streams.split(","):
        click.echo(str(run_cost(int(part), tokens)))
