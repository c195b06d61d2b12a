"""Our kernels beside stock llama.cpp on one model: times of passes, differences of predictions.

Stock is the same libllama without our kernels, in its fastest form. Each system has a process of
its own, because a process chooses its kernels only once.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from airdraft.nodes.service.runtime import set_engine_environment
from bench.decoding import pass_times
from bench.harness.report import head, note, row
from bench.options import at_least, model_file

SIZES: Final = (1, 2, 4, 8, 16, 32)
# Tokens of a pass that reads a prompt, as in nodes.
_CHUNK: Final = 256
# Logits are kept of one position in so many.
_KEPT_EVERY: Final = 16
# Texts of Debian's base-files, which every Debian system has.
_TEXTS: Final = tuple(
    Path("/usr/share/common-licenses") / name for name in ("GPL-3", "GPL-2", "LGPL-2.1", "MPL-1.1")
)
SYSTEMS: Final = ("ours", "stock")


@dataclass(frozen=True, slots=True)
class Measured:
    """What one system did. passes_ms: a pass of each of SIZES, and a token of a prompt. losses: of
    each token, in nats. kept: the logits of one position in _KEPT_EVERY."""

    passes_ms: list[float]
    losses: Any
    kept: Any


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of the same tokens by two systems. ours, stock: mean loss of a token in nats.
    difference: ours less stock. error: its standard error. divergence: mean KL of ours from stock.
    largest: the largest difference of a logit.
    """

    num_tokens: int
    ours: float
    stock: float
    difference: float
    error: float
    divergence: float
    largest: float


@click.command("kernels")
@click.option("--model", default="smollm2-135m", help="Name or path.")
@click.option("--threads", type=click.IntRange(1), multiple=True, default=(1, 2))
@at_least("--cells", 256, "In use when a pass is timed.", least=16)
@at_least("--tokens", 2000, "Of the text; 0 or 1 skips it.", least=0)
def kernels_command(model: str, threads: tuple[int, ...], cells: int, tokens: int) -> None:
    """Compare airdraft's kernels with stock llama.cpp.

    The tables show times of passes, and how far predictions differ.

    \b
    Example:
      python -m bench kernels --model qwen2.5-coder-1.5b --tokens 20000
    """
    path = model_file(model)
    for index, num_threads in enumerate(threads):
        # Predictions do not depend on the number of threads, so they are compared once.
        times, found = measure(path, num_threads, cells, 0 if index else tokens)
        click.echo(f"{num_threads} thread(s), {cells} cells:\n{_table(times)}")
        if found is not None:
            click.echo(
                f"\nPerplexity of {found.num_tokens} tokens: ours {np.exp(found.ours):.4f}, stock "
                f"{np.exp(found.stock):.4f} ({found.difference * 100:+.3f} % +- "
                f"{found.error * 100:.3f} %); KL {found.divergence:.2e}, largest difference of a "
                f"logit {found.largest:.3f}."
            )


def measure(
    model: Path, num_threads: int, cells: int, tokens: int, texts: Sequence[Path] = _TEXTS
) -> tuple[list[list[float]], Predictions | None]:
    """Returns the times of both systems, and predictions if tokens > 1.

    cells: cache cells in use when a pass is timed. tokens: length of the predicted text. texts: its
    files. Raises EngineError if a system cannot run the model.
    """
    found = []
    for system in SYSTEMS:
        note(f"{system}, {num_threads} thread(s)")
        spawning = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawning, set_engine_environment) as process:
            work = process.submit(_work, system, model, num_threads, cells, tokens, texts)
            found.append(work.result())
    return [each.passes_ms for each in found], _predictions(*found) if tokens > 1 else None


def _table(times: list[list[float]]) -> str:
    lines = [head("ms a pass", *map(str, SIZES), "prompt, ms a token")]
    for system, (first, *others, prompt_ms) in zip(SYSTEMS, times, strict=True):
        cells = (f"{ms:.1f} ({ms / first:.2f})" for ms in (first, *others))
        lines.append(row(system, *cells, f"{prompt_ms:.2f}"))
    ratios = (f"{stock / ours:.2f}" for ours, stock in zip(*times, strict=True))
    return "\n".join([*lines, row("stock to ours", *ratios)])


def _predictions(ours: Measured, stock: Measured) -> Predictions:
    difference = ours.losses - stock.losses
    log_ours, log_stock = _log_probabilities(ours.kept), _log_probabilities(stock.kept)
    return Predictions(
        num_tokens=len(difference),
        ours=float(ours.losses.mean()),
        stock=float(stock.losses.mean()),
        difference=float(difference.mean()),
        error=float(difference.std() / np.sqrt(len(difference))),
        divergence=float((np.exp(log_stock) * (log_stock - log_ours)).sum(axis=1).mean()),
        largest=float(abs(ours.kept - stock.kept).max()),
    )


def _log_probabilities(logits: Any) -> Any:
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def _work(
    system: str, path: Path, num_threads: int, cells: int, tokens: int, texts: Sequence[Path]
) -> Measured:
    """Run one system in this process."""
    from airdraft.nodes.cli.main import distribution_version
    from airdraft.nodes.engine.kernels.library import register
    from airdraft.nodes.engine.llama import LlamaModel
    from airdraft.nodes.engine.llama_context import LlamaConfig
    from airdraft.nodes.engine.protocol import Span

    if system == "stock":
        # The first choice of kernels in a process is final, so this comes before the model.
        register(distribution_version("llama-cpp-python"), kernels="none", keeps_others=True)
    config = LlamaConfig(
        path=path,
        profile="exact" if system == "ours" else "fast",
        num_cells=max(1024, 2 * cells),
        max_sequences=2,
        num_threads=num_threads,
    )
    model = LlamaModel(config)
    ids = [7] * cells
    begin = time.perf_counter()
    for start in range(0, cells, _CHUNK):
        model.forward([Span(0, start, ids[start : start + _CHUNK])])
    prompt_ms = (time.perf_counter() - begin) / cells * 1e3
    model.truncate(0, 0)
    passes_ms = [s * 1e3 for s in pass_times(model, SIZES, cells).values()]
    losses, kept = [np.zeros(0)], [np.zeros((0, model.info.num_vocab), dtype=np.float32)]
    text = "".join(path.read_text() for path in texts) if tokens else "a"
    text_ids = list(model.vocabulary.encode(text))[:tokens]
    for start in range(0, len(text_ids) - 1, _CHUNK):
        part = text_ids[start : start + _CHUNK + 1]
        logits = model.forward([Span(0, 0, part[:-1], len(part) - 1)])
        rows = _log_probabilities(logits)
        losses.append(-rows[np.arange(len(part) - 1), part[1:]])
        kept.append(logits[::_KEPT_EVERY].copy())
        model.truncate(0, 0)
    model.close()
    return Measured([*passes_ms, prompt_ms], np.concatenate(losses), np.concatenate(kept))
