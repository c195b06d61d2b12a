"""`python -m bench engine|cost|planner|law1`: measure single parts of airdraft."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.results.options import keep, out_option, quick_option


@click.command("engine")
@click.option(
    "--model",
    "models",
    multiple=True,
    help="Name or path. Can be repeated. Default: the catalogue's target and draft.",
)
@click.option(
    "--profile",
    type=click.Choice(["exact", "fast"]),
    help="Default: fast for the catalogue's draft, exact for other models.",
)
@click.option(
    "--used-cells",
    type=click.IntRange(16, 8000),
    default=512,
    show_default=True,
    help="Cache cells in use, of 8192.",
)
@click.option("--prompt-tokens", type=click.IntRange(2, 8000), default=512, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=15, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@quick_option
@out_option
def engine_command(
    models: tuple[str, ...],
    profile: str | None,
    used_cells: int,
    prompt_tokens: int,
    repeats: int,
    threads: int,
    quick: bool,
    out: Path | None,
) -> None:
    """Measure an engine's work on this machine.

    The table shows passes, steps, prompts and sampling.

    \b
    Example:
      python -m bench engine --model my-target.gguf --used-cells 2000
    """
    from bench.engine.suite import cells, run_engine, table
    from bench.results.making import airdraft_system, bare_system, result_of
    from nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET, Catalog, CatalogError
    from nodes.catalog import default_cache_dir as cache_dir
    from nodes.config.settings import environment
    from nodes.engine.protocol import EngineError

    folder = cache_dir(environment())
    found = []
    try:
        for name in models or (DEFAULT_TARGET, DEFAULT_DRAFT):
            # Guesses need not be the same bits everywhere, so draft nodes use the fast profile.
            is_fast = (profile or ("fast" if name == DEFAULT_DRAFT else "exact")) == "fast"
            measured = run_engine(
                Path(name).name,
                Catalog(folder).ensure(name),
                "fast" if is_fast else "exact",
                used_cells=256 if quick else used_cells,
                prompt_tokens=128 if quick else prompt_tokens,
                repeats=3 if quick else repeats,
                num_threads=threads,
                calibrations=folder / "calibration",
            )
            found.append(measured)
    except (CatalogError, EngineError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(table(found))
    settings = f"{threads} engine thread{'' if threads == 1 else 's'}"
    systems = airdraft_system(settings), bare_system(settings)
    keep(result_of(list(cells(found)), systems=systems, is_quick=quick), out)


@click.command("cost")
@click.option("--streams", default="1,4,16", show_default=True, help="Stream counts.")
@click.option("--repeats", default=5, show_default=True, help="Pairs of runs per stream count.")
@click.option("--max-tokens", default=96, show_default=True)
@quick_option
@out_option
def cost_command(
    streams: str, repeats: int, max_tokens: int, quick: bool, out: Path | None
) -> None:
    """Compare plain decoding in a mesh with bare llama.cpp.

    \b
    Example:
      python -m bench cost --streams 1,16 --repeats 3
    """
    from bench.cost import cells, run_cost, table
    from bench.results.making import airdraft_system, bare_system, result_of

    counts = [1] if quick else [int(part) for part in streams.split(",")]
    rows = run_cost(counts, repeats=2 if quick else repeats, max_tokens=48 if quick else max_tokens)
    click.echo(table(rows))
    systems = airdraft_system("1 engine thread"), bare_system("1 engine thread")
    keep(result_of(list(cells(rows)), systems=systems, is_quick=quick), out)


@click.command("planner")
@click.option("--plans", default=1000, show_default=True, help="Plans per mesh size.")
@click.option("--exact", default=500, show_default=True, help="Plans to compare with exact ones.")
@quick_option
@out_option
def planner_command(plans: int, exact: int, quick: bool, out: Path | None) -> None:
    """Measure the planner's time and the quality of its plans.

    Prices of plans are compared with those of exact plans.

    \b
    Example:
      python -m bench planner --plans 200
    """
    from bench.planner import cells, gap_line, gaps_to_exact, table, times_by_size
    from bench.results.making import airdraft_system, result_of

    found = times_by_size(100 if quick else plans)
    click.echo(table(found))
    gaps = gaps_to_exact(50 if quick else exact)
    click.echo(gap_line(gaps))
    made = list(cells(found, gaps))
    keep(result_of(made, systems=[airdraft_system()], is_quick=quick), out)


@click.command("law1")
@click.option("--prompts", default=100, show_default=True)
@click.option("--max-tokens", default=64, show_default=True)
@click.option("--gammas", default="0,1,3,8", show_default=True)
@click.option("--streams", default="1,4,8", show_default=True)
@click.option("--threads", default="1,2", show_default=True, help="Engine threads of the target.")
@click.option("--longest", default=1500, show_default=True, help="Tokens of the longest prompt.")
@click.option("--target", default="smollm2-135m", show_default=True)
@click.option("--draft", default=None, help="Draft model. Default: that of the catalogue.")
def law1_command(
    prompts: int,
    max_tokens: int,
    gammas: str,
    streams: str,
    threads: str,
    longest: int,
    target: str,
    draft: str | None,
) -> None:
    """Check that a real pair's texts equal those of a loop.

    Token ids from a mesh are compared with those of a plain loop over one sequence.

    \b
    Example:
      python -m bench law1 --prompts 10 --gammas 0,4 --streams 4
    """
    from bench.law1 import run_law1
    from bench.prompts import make_prompts

    text, num_wrong = run_law1(
        texts=make_prompts(prompts, longest=longest),
        max_tokens=max_tokens,
        gammas=_numbers(gammas),
        stream_counts=_numbers(streams),
        thread_counts=_numbers(threads),
        target=target,
        draft=draft,
    )
    click.echo(text)
    sys.exit(1 if num_wrong else 0)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


COMMANDS = (engine_command, cost_command, planner_command, law1_command)
