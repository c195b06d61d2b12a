"""`python -m bench engine|cost|planner|law1|speed|first|bound`: parts, and pairs of models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from bench.load.workloads import NAMES, PLAIN_NAMES
from bench.results.options import COUNTS, keep, listed, out_option, quick_option


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
@click.option("--streams", type=COUNTS, default="1,4,16", show_default=True, help="Stream counts.")
@click.option("--repeats", default=5, show_default=True, help="Pairs of runs per stream count.")
@click.option("--max-tokens", default=96, show_default=True)
@quick_option
@out_option
def cost_command(
    streams: list[int], repeats: int, max_tokens: int, quick: bool, out: Path | None
) -> None:
    """Compare plain decoding in a mesh with bare llama.cpp.

    \b
    Example:
      python -m bench cost --streams 1,16 --repeats 3
    """
    from bench.cost import cells, run_cost, table
    from bench.results.making import airdraft_system, bare_system, result_of

    counts = [1] if quick else streams
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
@click.option("--target", default="smollm2-135m", show_default=True)
@click.option("--draft", default=None, help="Draft model. Default: that of the catalogue.")
def law1_command(prompts: int, longest: int, **options: Any) -> None:
    """Check that a real pair's texts equal those of a loop.

    Token ids from a mesh are compared with those of a plain loop over one sequence.

    \b
    Example:
      python -m bench law1 --prompts 10 --gammas 0,4 --streams 4
    """
    from bench.law1 import run_law1
    from bench.prompts import make_prompts

    text, num_wrong = run_law1(texts=make_prompts(prompts, longest=longest), **options)
    click.echo(text)
    sys.exit(1 if num_wrong else 0)


_target = click.option(
    "--target", default="smollm2-135m", show_default=True, help="A name or a GGUF file."
)
_max_tokens = click.option("--max-tokens", default=128, show_default=True)


@click.command("speed")
@click.option("--streams", type=COUNTS, default="1,4", show_default=True, help="Stream counts.")
@click.option(
    "--prompts", "num_prompts", default=16, show_default=True, help="Prompts of each kind."
)
@_max_tokens
@click.option("--temperature", default=0.0, show_default=True)
@click.option(
    "--workloads",
    type=listed(accepted=lambda: NAMES),
    default="chat,copy",
    show_default=True,
    help="Kinds of prompts: chat, copy, code, code-edit, json, agentic, ...",
)
@_target
@click.option("--draft", default="", help='Draft model, or "none". Default: that of the catalogue.')
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
    from bench.speed import Pair, run_speed

    pair = Pair(target, draft, looks_up, weights)
    run_speed(streams, workloads, pair, **options, report=click.echo)


@click.command("first")
@click.option("--lengths", type=COUNTS, default="32,256,1024", show_default=True)
@click.option("--repeats", default=5, show_default=True, help="Prompts of each length and kind.")
@_max_tokens
@click.option(
    "--workloads",
    type=listed(accepted=lambda: PLAIN_NAMES),
    default="chat,code",
    show_default=True,
    help="Kinds of prompts whose gaps between tokens are measured.",
)
@_target
@click.option("--draft", default="", help='Draft model, or "none". Default: that of the catalogue.')
def first_command(
    lengths: list[int], workloads: list[str], target: str, draft: str, **options: Any
) -> None:
    """Measure the time to the first token, and the gaps between tokens.

    The first token is compared with a bare llama.cpp loop that reads as long a prompt.

    \b
    Example:
      python -m bench first --target big.gguf --draft small.gguf --lengths 64,1024
    """
    from bench.first import run_first
    from bench.speed import Pair

    run_first(Pair(target, draft), lengths, workloads, **options, report=click.echo)


@click.command("bound")
@click.option(
    "--prompts", "num_prompts", default=10, show_default=True, help="Prompts of each kind."
)
@_max_tokens
@click.option(
    "--workloads",
    type=listed(accepted=lambda: NAMES),
    default="chat,copy",
    show_default=True,
    help="Kinds of prompts with one turn: chat, copy, code, code-edit, json, ...",
)
@_target
@click.option("--draft", default="", help="Draft model. Default: that of the catalogue.")
def bound_command(workloads: list[str], target: str, draft: str, **options: Any) -> None:
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
    run_bound(workloads, Pair(target, draft), **options, report=click.echo)


COMMANDS = (
    engine_command,
    cost_command,
    planner_command,
    law1_command,
    speed_command,
    first_command,
    bound_command,
)
