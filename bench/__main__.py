"""`python -m bench`: measurements that take too long or are too noisy for tests."""

from __future__ import annotations

import sys
from pathlib import Path

import click

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


@bench.group()
def distill() -> None:
    """Make a small draft model for a target: corpus, sample, train, export, evaluate.

    \b
    Example: bench/distill/CARD.md lists the commands that made the default draft.
    """


_target = click.option("--target", default="smollm2-135m", show_default=True, help="Name or path.")


@distill.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@_target
@click.option("--licence", "licences", multiple=True, help="Licence of a source, for the record.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path))
def corpus(paths: tuple[Path, ...], target: str, licences: tuple[str, ...], out: Path) -> None:
    """Token ids, topics and passages of text files (.txt, .rst, .md, .html).

    \b
    Example:
      python -m bench distill corpus texts/ --licence "texts: PSF-2.0" --out data/corpus
    """
    from bench.distill.steps import make_corpus

    click.echo(make_corpus(target, list(paths), list(licences), out))


@distill.command("sample")
@_target
@click.option("--corpus", type=click.Path(exists=True, path_type=Path), help="Topics, passages.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--tokens", default=1_000_000, show_default=True, help="Answer tokens wanted.")
@click.option("--width", default=20, show_default=True, help="Sequences at once.")
@click.option("--max-answer", default=224, show_default=True, help="Tokens of an answer at most.")
@click.option("--best", default=32, show_default=True, help="Best tokens noted at a position.")
@click.option("--seed", default=1, show_default=True)
@click.option("--threads", default=1, show_default=True)
def sample_(
    target: str,
    corpus: Path | None,
    out: Path,
    tokens: int,
    width: int,
    max_answer: int,
    best: int,
    seed: int,
    threads: int,
) -> None:
    """The target's own answers to many prompts. Stop it at will; the same command goes on.

    \b
    Example:
      python -m bench distill sample --corpus data/corpus --out data/answers --tokens 500000
    """
    from bench.distill.steps import sample_answers

    click.echo(
        sample_answers(
            target,
            corpus,
            out,
            num_tokens=tokens,
            width=width,
            max_answer=max_answer,
            num_best=best,
            seed=seed,
            threads=threads,
        )
    )


if __name__ == "__main__":
    bench()
