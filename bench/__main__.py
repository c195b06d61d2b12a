"""`python -m bench`: measurements that take too long or are too noisy for tests."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.distill.commands import distill
from bench.paper.command import paper_command
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


@bench.command()
@click.option("--scenarios", default=250, show_default=True, help="Random scenarios.")
@click.option("--first-seed", default=0, show_default=True)
@click.option("--passes", default=600, show_default=True, help="Length of a scenario in passes.")
@click.option("--processes", default=1, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False), help="Keep all figures as JSON.")
def sim(scenarios: int, first_seed: int, passes: int, processes: int, out: str | None) -> None:
    """The live scheduler in simulated meshes: the joint planner beside every other policy.

    \b
    Example:
      python -m bench sim --scenarios 10 --passes 300
    """
    from bench.sim.closed_loop import report, run_many, save

    outcomes = []
    seeds = range(first_seed, first_seed + scenarios)
    for outcome in run_many(seeds, passes, processes):
        outcomes.append(outcome)
        if out:
            save(outcomes, Path(out))
        click.echo(
            f"seed {outcome.seed}: {outcome.num_clients} clients, {outcome.num_drafts} draft "
            f"nodes, joint to the best {outcome.to_best:.3f}, to plain {outcome.to_ad:.3f}",
            err=True,
        )
    click.echo(report(outcomes))


bench.add_command(distill)
bench.add_command(paper_command, "paper")


@bench.command()
@click.option("--plans", default=1000, show_default=True, help="Plans of each size.")
def planner(plans: int) -> None:
    """What a plan costs: processor time of the live planner on random observations.

    \b
    Example:
      python -m bench planner --plans 200
    """
    from bench.planner import table

    click.echo(table(plans))


if __name__ == "__main__":
    bench()
