"""The steps as the command line calls them: files and names in, files and a summary out."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.distill.report import Reporter
from bench.distill.sampling.answers import AnswerFile, Recipe
from bench.distill.sampling.corpus import CorpusInfo, build_corpus, id_dtype, text_files
from bench.distill.sampling.prompts import PromptMaker, PromptSource, read_lines
from bench.distill.sampling.sample import Sampler
from bench.distill.sampling.streams import StreamedModel
from nodes.catalog import Catalog, default_cache_dir
from nodes.config.settings import environment
from nodes.engine.llama import LlamaConfig
from nodes.engine.llama_abi import hash_file, load_model
from nodes.engine.vocab import LlamaTokenizer

if TYPE_CHECKING:
    from bench.distill.sampling.teacher import TorchTarget

_CELLS_PER_SEQUENCE = 1280


def model_path(name_or_path: str) -> Path:
    """The GGUF of a catalogue name or a path; pulled if need be."""
    return Catalog(default_cache_dir(environment())).ensure(name_or_path)


def make_corpus(target: str, paths: list[Path], licences: list[str], out: Path) -> str:
    """Texts to token ids, topics and passages in the folder `out`."""
    model = load_model(model_path(target), gpu_layers=0, repack=False, vocab_only=True)
    tokenizer = LlamaTokenizer(model)
    info = CorpusInfo(
        sources=[path.name for path in paths],
        licences=licences,
        num_files=0,
        num_chars=0,
        num_tokens=0,
        vocab_hash=tokenizer.content_hash(),
        sha256="",
    )
    with Reporter() as reporter:
        info = build_corpus(
            text_files(paths),
            tokenizer,
            out,
            info=info,
            separator_id=min(tokenizer.eog_token_ids()),
            dtype=id_dtype(tokenizer.num_vocab),
            progress=reporter,
        )
    return f"{info.num_tokens} tokens of {info.num_files} files in {out / 'corpus.bin'}"


def sample_answers(
    target: Path,
    out: Path,
    prompts: PromptSource,
    prompts_sha256: str,
    *,
    num_tokens: int,
    width: int,
    max_answer: int,
    num_best: int,
    seed: int,
    threads: int,
    engine: str = "llama.cpp",
) -> tuple[AnswerFile, int]:
    """Answers of the target until `out` holds `num_tokens`, or the prompts end; goes on there."""
    model = _teacher(target, width, threads, engine)
    try:
        recipe = Recipe(
            model_hash=model.info.model_hash,
            vocab_hash=model.info.vocab_hash,
            num_vocab=model.info.num_vocab,
            num_best=num_best,
            max_answer=max_answer,
            seed=seed,
            prompts_sha256=prompts_sha256,
        )
        file = AnswerFile(out, recipe)
        sampler = Sampler(model, model.tokenizer, file, prompts)
        with Reporter() as reporter:
            return file, sampler.run(num_tokens, reporter, should_stop=stop_flag())
    finally:
        model.close()


def _teacher(target: Path, width: int, threads: int, engine: str) -> StreamedModel | TorchTarget:
    """One sequence more than `width` for what all prompts share."""
    if engine == "torch":
        from bench.distill.sampling.teacher import TorchTarget

        return TorchTarget(
            target, max_sequences=width + 1, max_length=_CELLS_PER_SEQUENCE, threads=threads
        )
    return StreamedModel(
        LlamaConfig(
            path=target,
            num_cells=(width + 1) * _CELLS_PER_SEQUENCE,
            max_sequences=width + 1,
            max_batch_tokens=512,
            num_threads=threads,
        )
    )


def training_prompts(corpus: Path | None, seed: int) -> tuple[PromptMaker, str]:
    """Prompts over the topics and passages of a corpus, and a hash of these."""
    topics = read_lines(corpus / "topics.txt") if corpus else []
    passages = read_lines(corpus / "passages.txt") if corpus else []
    return PromptMaker(topics, passages, seed=seed), hash_lines([*topics, *passages])


def hash_lines(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def train_draft(
    target: Path,
    corpus: Path | None,
    answers: Sequence[Path],
    out: Path,
    *,
    corpus_tokens: int,
    epochs: float,
    max_tokens: int | None,
    seed: int,
    threads: int,
) -> str:
    """Both phases of training into the folder `out`, and a plot of how they went."""
    # torch takes seconds to load, and only this step and the next need it.
    from bench.distill.training.fit import FitOptions, fit
    from bench.distill.training.plot import plot_log

    options = FitOptions(
        corpus_tokens=corpus_tokens,
        epochs=epochs,
        max_tokens=max_tokens,
        seed=seed,
        threads=threads,
    )
    with Reporter() as reporter:
        line = fit(
            target, corpus, answers, out, options, reporter=reporter, should_stop=stop_flag()
        )
    plot_log(out / "log.jsonl", out / "loss.png")
    return line


def export_draft(
    target: Path,
    run: Path,
    out: Path,
    *,
    answers: Sequence[Path],
    embedding: str,
    layers: str,
    name: str,
    licence: str,
) -> str:
    """The checkpoint of a training folder as a quantised GGUF.

    answers: where there are any, those held out of training calibrate the draft's confidence.
    """
    from bench.distill.measuring.calibrate import calibrate_draft
    from bench.distill.training.gguf_files import quantise_draft, write_draft
    from bench.distill.training.train import load_draft

    model = load_draft(run)
    whole = out.with_suffix(".f16.gguf")
    out.parent.mkdir(parents=True, exist_ok=True)

    def write(calibration: str) -> None:
        write_draft(
            model,
            target,
            whole,
            name=name,
            licence=licence,
            dtype=np.float16,
            calibration=calibration,
        )
        quantise_draft(whole, out, embedding=embedding, layers=layers)
        whole.unlink()

    write("")
    if answers:
        # The file as it will be used is what is calibrated: quantisation is part of it.
        with Reporter() as reporter:
            write(calibrate_draft(out, [AnswerFile(folder) for folder in answers], reporter))
    return f"{out}: {out.stat().st_size} bytes, SHA-256 {hash_file(out)}"


def stop_flag() -> Callable[[], bool]:
    """True once SIGTERM or Ctrl-C came: the step ends in good order; a second Ctrl-C at once."""
    stopped = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal stopped
        stopped = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return lambda: stopped
