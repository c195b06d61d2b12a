"""`python -m bench`: measurements that take too long or are too noisy for tests."""

from __future__ import annotations

import sys

import click

from bench.distill.commands import distill
from nodes.runtime import set_engine_environment

set_engine_environment()


@click.group()
def bench() -> None:
    """Measure airdraft on this machine. Figures are ratios within one run.

    \b
    Example:
      python -m bench cost --streams 1,4,16
    """


@bench.command()
@click.option("--streams", default="1,4,16", show_default=True, help="Stream counts.")
@click.option("--repeats", default=5, show_default=True, help="Pairs of runs of each count.")
@click.option("--max-tokens", default=96, show_default=True)
@click.option("--peer/--no-peer", default=True, help="Also run llama.cpp's server (xllamacpp).")
def cost(streams: str, repeats: int, max_tokens: int, *, peer: bool) -> None:
    """Plain decoding through the whole mesh beside a bare llama.cpp loop.

    \b
    Example:
      python -m bench cost --streams 1,16 --repeats 3
    """
    from bench.cost import run_cost

    counts = [int(part) for part in streams.split(",")]
    click.echo(run_cost(counts, repeats=repeats, max_tokens=max_tokens, with_peer=peer))


@bench.command()
@click.option("--prompts", default=100, show_default=True)
@click.option("--max-tokens", default=64, show_default=True)
@click.option("--gammas", default="0,1,3,8", show_default=True)
@click.option("--streams", default="1,4,8", show_default=True)
@click.option("--draft", default=None, help="Draft model; default the catalogue's.")
def law1(prompts: int, max_tokens: int, gammas: str, streams: str, draft: str | None) -> None:
    """Token ids of the real pair through the mesh against a plain single-sequence loop.

    \b
    Example:
      python -m bench law1 --prompts 10 --gammas 0,4 --streams 4
    """
    from bench.law1 import run_law1
    from bench.prompts import make_prompts

    text, num_wrong = run_law1(
        texts=make_prompts(prompts),
        max_tokens=max_tokens,
        gammas=[int(part) for part in gammas.split(",")],
        stream_counts=[int(part) for part in streams.split(",")],
        draft=draft,
    )
    click.echo(text)
    sys.exit(1 if num_wrong else 0)


@bench.command()
def sampling() -> None:
    """Sampling 16 rows by law 1 beside the decode of 16 rows, on every installed model.

    \b
    Example:
      python -m bench sampling
    """
    from bench.sampling import run_sampling

    click.echo(run_sampling())


@bench.command()
def memory() -> None:
    """Resident memory of a target and a coordinator against their budgets.

    \b
    Example:
      python -m bench memory
    """
    from bench.memory import run_memory

    text, is_within = run_memory()
    click.echo(text)
    sys.exit(0 if is_within else 1)


bench.add_command(distill)


if __name__ == "__main__":
    bench()
