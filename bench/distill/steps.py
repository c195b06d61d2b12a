"""The steps as the command line calls them: files and names in, files and a summary out."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable
from pathlib import Path

from bench.distill.answers import AnswerFile, Recipe
from bench.distill.corpus import CorpusInfo, build_corpus, id_dtype, text_files
from bench.distill.prompts import PromptMaker, read_lines
from bench.distill.report import Reporter
from bench.distill.sample import Sampler
from bench.distill.streams import StreamedModel
from nodes.catalog import Catalog, default_cache_dir
from nodes.config import environment
from nodes.engine.llama import LlamaConfig
from nodes.engine.llama_abi import load_model
from nodes.engine.vocab import LlamaTokenizer


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
    target: str,
    corpus: Path | None,
    out: Path,
    *,
    num_tokens: int,
    width: int,
    max_answer: int,
    num_best: int,
    seed: int,
    threads: int,
) -> str:
    """Answers of the target until `out` holds `num_tokens` of them; goes on where it stopped."""
    topics = read_lines(corpus / "topics.txt") if corpus else []
    passages = read_lines(corpus / "passages.txt") if corpus else []
    prompts = PromptMaker(topics, passages, seed=seed)
    model = StreamedModel(
        LlamaConfig(
            path=model_path(target),
            num_cells=(width + 1) * 768,
            max_sequences=width + 1,
            max_batch_tokens=512,
            num_threads=threads,
        )
    )
    try:
        recipe = Recipe(
            model_hash=model.info.model_hash,
            vocab_hash=model.info.vocab_hash,
            num_vocab=model.info.num_vocab,
            num_best=num_best,
            max_answer=max_answer,
            seed=seed,
            prompts_sha256=hashlib.sha256("\n".join([*topics, *passages]).encode()).hexdigest(),
        )
        sampler = Sampler(model, model.tokenizer, AnswerFile(out, recipe), prompts)
        with Reporter() as reporter:
            have = sampler.run(num_tokens, reporter, should_stop=stop_flag())
    finally:
        model.close()
    return f"{have} answer tokens in {out / 'answers.bin'}"


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
