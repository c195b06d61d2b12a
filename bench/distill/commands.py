"""`python -m bench distill ...`: arguments and help; the steps load what is heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.options import at_least, model_file, target_option


@click.group()
def distill() -> None:
    """Make a small draft model for a target: corpus, sample, train, export.

    \b
    Example: bench/distill/CARD.md lists the commands that made the default draft.
    """


_THERE = click.Path(exists=True, path_type=Path)
_answers = click.option(
    "--answers",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of answers; may be given again, with those of another seed.",
)
_out = click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path))
_seed = at_least("--seed", 1, least=0)


@distill.command()
@click.argument("paths", nargs=-1, required=True, type=_THERE)
@target_option
@click.option("--licence", "licences", multiple=True, help="Licence of a source, for the record.")
@_out
def corpus(paths: tuple[Path, ...], target: str, licences: tuple[str, ...], out: Path) -> None:
    """Token ids, topics and passages of text files (.txt, .rst, .md, .html).

    \b
    Example:
      python -m bench distill corpus texts/ --licence "texts: PSF-2.0" --out data/corpus
    """
    from bench.decoding import tokenizer_of
    from bench.distill.report import Reporter
    from bench.distill.sampling.corpus import build_corpus

    with Reporter() as reporter:
        click.echo(build_corpus(paths, licences, tokenizer_of(model_file(target)), out, reporter))


@distill.command("sample")
@target_option
@click.option("--corpus", type=_THERE, help="Topics, passages.")
@_out
@at_least("--tokens", 1_000_000, "Answer tokens wanted.", "num_tokens")
@at_least("--width", 20, "Sequences at once.")
# Longer ones do not fit a sequence's cells behind the longest prompt.
@click.option(
    "--max-answer", type=click.IntRange(1, 768), default=224, help="Most tokens of an answer."
)
@_seed
@at_least("--threads", 1)
def sample_(
    target: str, corpus: Path | None, out: Path, num_tokens: int, seed: int, **options: Any
) -> None:
    """The target's own answers to many prompts. Stop it at will; the same command goes on.

    \b
    Example:
      python -m bench distill sample --corpus data/corpus --out data/answers --tokens 500000
    """
    from bench.distill.sampling.prompts import prompts_of_corpus
    from bench.distill.sampling.sample import sample_answers

    prompts = prompts_of_corpus(corpus, seed)
    found = sample_answers(
        model_file(target), out, prompts, num_tokens=num_tokens, seed=seed, **options
    )
    click.echo(f"{found} answer tokens in {out}")


@distill.command()
@target_option
@click.option("--corpus", type=_THERE, help="First phase's text.")
@_answers
@_out
@at_least("--corpus-tokens", 4_000_000, "First phase's length.", least=0)
@at_least("--epochs", 4.0, "Second phase's length.", least=0)
@_seed
@at_least("--threads", 1)
def train(
    target: str, corpus: Path | None, answers: tuple[Path, ...], out: Path, **options: Any
) -> None:
    """Train the draft: on text, then on answers. Stop it at will; the same command goes on.

    \b
    Example:
      python -m bench distill train --corpus data/corpus --answers data/answers --out data/run
    """
    from bench.distill.report import stop_flag
    from bench.distill.training.train import fit

    with stop_flag() as should_stop:
        click.echo(fit(model_file(target), corpus, answers, out, should_stop, **options))


@distill.command()
@target_option
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_answers
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", default="draft", help="The model's name in the file.")
@click.option("--licence", default="apache-2.0")
def export(run: Path, target: str, out: Path, **options: Any) -> None:
    """A training folder's model as a GGUF with the target's vocabulary.

    With answers, those held out of training calibrate its confidence and tell its acceptance.

    \b
    Example:
      python -m bench distill export data/run --answers data/answers --out data/draft.gguf
    """
    from bench.distill.training.export import export_draft

    click.echo(export_draft(model_file(target), run, out, **options))
