"""Our kernels beside stock llama.cpp on one model: times of passes, differences of predictions.

Stock is the same libllama without our kernels, in its fastest form. Each system has a process of
its own, because a process chooses its kernels only once.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from bench.harness.report import head, note, row
from nodes.catalog import Catalog, default_cache_dir
from nodes.config.settings import environment
from nodes.service.runtime import set_engine_environment

SIZES: Final = (1, 2, 4, 8, 16, 32)
# Tokens of a pass that reads a prompt, as in nodes.
_CHUNK: Final = 256
_REPEATS: Final = 5
# Logits are kept of one position in so many.
_KEPT_EVERY: Final = 16
# Texts of Debian's base-files, which every Debian system has.
_TEXTS: Final = tuple(
    Path("/usr/share/common-licenses") / name for name in ("GPL-3", "GPL-2", "LGPL-2.1", "MPL-1.1")
)
TEXT_SHA256: Final = "9472ca1de8ca428a6eecdb180ae358865dcf15f2721ed9b3ceb3454fbb7d604e"
SYSTEMS: Final = ("ours", "stock")


@dataclass(frozen=True, slots=True)
class Asked:
    """Work of one process. cells: cache cells in use when a pass is timed. tokens: length of the
    predicted text. text: its file. Default: the licences of _TEXTS.
    """

    model: Path
    threads: int
    cells: int
    tokens: int
    text: Path | None = None


@dataclass(frozen=True, slots=True)
class Times:
    """prompt_ms: a token of a prompt. passes_ms: a pass of each of SIZES."""

    prompt_ms: float
    passes_ms: list[float]


@dataclass(frozen=True, slots=True)
class Logits:
    """losses: of each token, in nats. kept: the logits of one position in _KEPT_EVERY."""

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
@click.option("--cells", type=click.IntRange(16), default=256, help="In use when a pass is timed.")
@click.option("--tokens", type=click.IntRange(0), default=2000, help="Of the text; 0 skips it.")
def kernels_command(model: str, threads: tuple[int, ...], cells: int, tokens: int) -> None:
    """Compare airdraft's kernels with stock llama.cpp.

    The tables show times of passes, and how far predictions differ.

    \b
    Example:
      python -m bench kernels --model qwen2.5-coder-1.5b --tokens 20000
    """
    path = Catalog(default_cache_dir(environment())).ensure(model)
    for index, num_threads in enumerate(threads):
        # Predictions do not depend on the number of threads, so they are compared once.
        times, found = measure(Asked(path, num_threads, cells, 0 if index else tokens))
        click.echo(f"{num_threads} thread(s), {cells} cells:\n{_passes(times)}")
        if found is not None:
            click.echo(
                f"\nPerplexity of {found.num_tokens} tokens: ours {np.exp(found.ours):.4f}, stock "
                f"{np.exp(found.stock):.4f} ({found.difference * 100:+.3f} % +- "
                f"{found.error * 100:.3f} %); KL {found.divergence:.2e}, largest difference of a "
                f"logit {found.largest:.3f}."
            )


def measure(asked: Asked) -> tuple[dict[str, Times], Predictions | None]:
    """Measure times of both systems, and predictions if asked.tokens > 0.

    Raises EngineError if one cannot run the model.
    """
    times, logits = {}, {}
    for system in SYSTEMS:
        note(f"{system}, {asked.threads} thread(s)")
        spawning = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawning, set_engine_environment) as process:
            times[system], logits[system] = process.submit(_work, system, asked).result()
    return times, _predictions(logits) if asked.tokens else None


def _passes(found: dict[str, Times]) -> str:
    lines = [head("ms a pass", *map(str, SIZES), "prompt, ms a token")]
    for system, times in found.items():
        first = times.passes_ms[0]
        cells = (f"{t:.1f} ({t / first:.2f})" for t in times.passes_ms)
        lines.append(row(system, *cells, f"{times.prompt_ms:.2f}"))
    ours, stock = (found[system] for system in SYSTEMS)
    ratios = [s / o for o, s in zip(ours.passes_ms, stock.passes_ms, strict=True)]
    ratios.append(stock.prompt_ms / ours.prompt_ms)
    return "\n".join([*lines, row("stock to ours", *(f"{ratio:.2f}" for ratio in ratios))])


def _predictions(found: dict[str, Logits]) -> Predictions:
    ours, stock = (found[system] for system in SYSTEMS)
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


def text() -> str:
    """Return the text to predict. Raises OSError if a file is missing, ValueError if it differs."""
    found = "".join(path.read_text() for path in _TEXTS)
    sha256 = hashlib.sha256(found.encode()).hexdigest()
    if sha256 != TEXT_SHA256:
        raise ValueError(f"the licences of this system have SHA-256 {sha256}, not {TEXT_SHA256}")
    return found


def _work(system: str, asked: Asked) -> tuple[Times, Logits]:
    """Run one system in this process."""
    from nodes.cli.main import distribution_version
    from nodes.engine.kernels.library import register
    from nodes.engine.llama import LlamaConfig, LlamaModel
    from nodes.engine.protocol import Span

    if system == "stock":
        # The first choice of kernels in a process is final, so this comes before the model.
        register(distribution_version("llama-cpp-python"), kernels="none", keeps_others=True)
    config = LlamaConfig(
        path=asked.model,
        profile="exact" if system == "ours" else "fast",
        num_cells=max(1024, 2 * asked.cells),
        max_sequences=2,
        num_threads=asked.threads,
    )
    model = LlamaModel(config)
    ids = [7] * asked.cells
    begin = time.perf_counter()
    for start in range(0, asked.cells, _CHUNK):
        model.forward([Span(0, start, ids[start : start + _CHUNK])])
    prompt_ms = (time.perf_counter() - begin) / asked.cells * 1e3
    times = Times(prompt_ms, [_pass_ms(model, size, asked.cells) for size in SIZES])
    model.truncate(0, 0)
    losses, kept = [np.zeros(0)], [np.zeros((0, model.info.num_vocab), dtype=np.float32)]
    text_ids: list[int] = []
    if asked.tokens:
        predicted = asked.text.read_text() if asked.text is not None else text()
        text_ids = list(model.vocabulary.encode(predicted))[: asked.tokens]
    for start in range(0, len(text_ids) - 1, _CHUNK):
        part = text_ids[start : start + _CHUNK + 1]
        logits = model.forward([Span(0, 0, part[:-1], len(part) - 1)])
        rows = _log_probabilities(logits)
        losses.append(-rows[np.arange(len(part) - 1), part[1:]])
        kept.append(logits[::_KEPT_EVERY].copy())
        model.truncate(0, 0)
    model.close()
    return times, Logits(np.concatenate(losses), np.concatenate(kept))


def _pass_ms(model: Any, size: int, cells: int) -> float:
    from nodes.engine.protocol import Span

    times = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        model.forward([Span(0, cells, [7] * size, size)])
        times.append(time.perf_counter() - begin)
        model.truncate(0, cells)
    return float(np.median(times)) * 1e3
