"""`python -m bench distill ...`: arguments and help; the steps load what is heavy."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def distill() -> None:
    """Make a small draft model for a target: corpus, sample, train, export, evaluate.

    \b
    Example: bench/distill/CARD.md lists the commands that made the default draft.
    """


_answers = click.option(
    "--answers",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of answers; may be given again, with those of another seed.",
)
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
@click.option(
    "--engine",
    type=click.Choice(["llama.cpp", "torch"]),
    default="llama.cpp",
    show_default=True,
    help="torch: plain llama models only; faster without AMX, at width 96.",
)
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
    engine: str,
) -> None:
    """The target's own answers to many prompts. Stop it at will; the same command goes on.

    \b
    Example:
      python -m bench distill sample --corpus data/corpus --out data/answers --tokens 500000
    """
    from bench.distill.steps import model_path, sample_answers, training_prompts

    prompts, prompts_sha256 = training_prompts(corpus, seed)
    _file, num_tokens = sample_answers(
        model_path(target),
        out,
        prompts,
        prompts_sha256,
        num_tokens=tokens,
        width=width,
        max_answer=max_answer,
        num_best=best,
        seed=seed,
        threads=threads,
        engine=engine,
    )
    click.echo(f"{num_tokens} answer tokens in {out}")


@distill.command()
@_target
@click.option("--corpus", type=click.Path(exists=True, path_type=Path), help="First phase's text.")
@_answers
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--corpus-tokens", default=4_000_000, show_default=True, help="First phase's length.")
@click.option("--epochs", default=4.0, show_default=True, help="Second phase's length.")
@click.option("--max-tokens", type=int, help="Use at most this many answer tokens.")
@click.option("--seed", default=1, show_default=True)
@click.option("--threads", default=1, show_default=True)
def train(
    target: str,
    corpus: Path | None,
    answers: tuple[Path, ...],
    out: Path,
    corpus_tokens: int,
    epochs: float,
    max_tokens: int | None,
    seed: int,
    threads: int,
) -> None:
    """Train the draft: on text, then on answers. Stop it at will; the same command goes on.

    \b
    Example:
      python -m bench distill train --corpus data/corpus --answers data/answers --out data/run
    """
    from bench.distill.steps import model_path, train_draft

    click.echo(
        train_draft(
            model_path(target),
            corpus,
            answers,
            out,
            corpus_tokens=corpus_tokens,
            epochs=epochs,
            max_tokens=max_tokens,
            seed=seed,
            threads=threads,
        )
    )


@distill.command()
@_target
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_answers
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--embedding", default="Q4_0", show_default=True, help="Type of the embedding.")
@click.option("--layers", default="Q6_K", show_default=True, help="Type of the layers' matrices.")
@click.option("--name", default="draft", show_default=True, help="The model's name in the file.")
@click.option("--licence", default="apache-2.0", show_default=True)
def export(
    run: Path,
    answers: tuple[Path, ...],
    target: str,
    out: Path,
    embedding: str,
    layers: str,
    name: str,
    licence: str,
) -> None:
    """A training folder's model as a GGUF with the target's vocabulary.

    With answers, those held out of training calibrate its confidence.

    \b
    Example:
      python -m bench distill export data/run --answers data/answers --out data/draft.gguf
    """
    from bench.distill.steps import export_draft, model_path

    click.echo(
        export_draft(
            model_path(target),
            run,
            out,
            answers=answers,
            embedding=embedding,
            layers=layers,
            name=name,
            licence=licence,
        )
    )


@distill.command()
@_target
@click.argument("draft", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--prompts", type=int, help="Use about this many of the 200.")
@click.option("--max-answer", default=128, show_default=True)
@click.option("--compare", default=40, show_default=True, help="Answers to compare noises on.")
@click.option("--seed", default=1, show_default=True)
def evaluate(
    draft: Path,
    target: str,
    out: Path,
    prompts: int | None,
    max_answer: int,
    compare: int,
    seed: int,
) -> None:
    """Acceptance under law 1 on 200 held-out prompts, greedy and at T 0.8.

    \b
    Example:
      python -m bench distill evaluate data/smollm2-draft.gguf --out data/held-out
    """
    from bench.distill.measuring.figures import evaluate as evaluate_draft
    from bench.distill.steps import model_path

    click.echo(
        evaluate_draft(
            model_path(target),
            draft,
            out,
            num_prompts=prompts,
            max_answer=max_answer,
            num_compared=compare,
            seed=seed,
        )
    )


@distill.command()
@_target
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--max-answer", default=128, show_default=True)
@click.option("--seed", default=1, show_default=True)
def lookup(target: str, out: Path, max_answer: int, seed: int) -> None:
    """What prompt lookup earns on prompts whose answers copy, and on the held-out chat prompts.

    \b
    Example:
      python -m bench distill lookup --out data/lookup
    """
    from bench.distill.measuring.copying import measure_lookup
    from bench.distill.steps import model_path

    click.echo(measure_lookup(model_path(target), out, max_answer=max_answer, seed=seed))
