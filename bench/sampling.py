"""Time of sampling by law 1 beside that of the decode before it: 16 rows on real models."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import numpy as np

from nodes.catalog import Catalog, default_cache_dir
from nodes.config.settings import environment
from nodes.engine.grammar import Grammars
from nodes.engine.llama import LlamaConfig, LlamaModel
from nodes.engine.protocol import Logits, Span
from nodes.engine.rules import Grammar, LogitBias, LogitRules
from nodes.engine.sampler import Sampler
from nodes.engine.sampling import Sampling
from nodes.target.scoring import score_rows

NUM_ROWS = 16
_PROMPT = tuple(range(100, 107))
_REPEATS = 9
_KINDS = {
    "T 0.8, top-k 40, top-p 0.95": Sampling(temperature=0.8, top_k=40, top_p=0.95),
    "T 0.8, top-p 0.95": Sampling(temperature=0.8, top_p=0.95),
    "T 1, no filter": Sampling(temperature=1.0),
    "greedy": Sampling(),
    "greedy, biases and penalties": Sampling(
        rules=LogitRules((LogitBias(9, 2.0),), presence_penalty=0.5, frequency_penalty=0.5)
    ),
    "greedy, JSON schema": Sampling(
        rules=LogitRules(grammar=Grammar("json_schema", '{"type": "object"}'))
    ),
    "greedy, any text without a quotation mark": Sampling(
        rules=LogitRules(grammar=Grammar("gbnf", 'root ::= [^"]+'))
    ),
}


def run_sampling() -> str:
    """Return a table of milliseconds for 16 rows, for each installed model of the catalogue."""
    catalog = Catalog(default_cache_dir(environment()))
    rows = ["| model | vocabulary | decode ms | sampling | ms | share of decode |"]
    rows.append("|---|---|---|---|---|---|")
    for name in catalog.installed():
        model = LlamaModel(LlamaConfig(path=catalog.path(name), num_cells=2048))
        try:
            rows += _measure(name, model)
        finally:
            model.close()
    return "\n".join(rows)


def _measure(name: str, model: LlamaModel) -> list[str]:
    # The logits are real, because the cost of a filter depends on how many tokens it leaves.
    token_ids = np.random.default_rng(0).integers(0, model.info.num_vocab, NUM_ROWS).tolist()
    for seq_id, token_id in enumerate(token_ids):
        model.forward([Span(seq_id, 0, [token_id])])

    def decode() -> None:
        for seq_id in range(NUM_ROWS):
            model.truncate(seq_id, 1)
        model.forward([Span(s, 1, [t], 1) for s, t in enumerate(token_ids)])

    decode_s = _median_seconds(decode)
    for seq_id in range(NUM_ROWS):
        model.truncate(seq_id, 1)
    logits = model.forward([Span(s, 1, [t], 1) for s, t in enumerate(token_ids)]).copy()
    work: dict[str, Callable[[], object]] = {}
    grammars = Grammars(model.vocabulary, model.info)
    for kind, sampling in _KINDS.items():
        samplers = [_sampler(sampling, model.info.num_vocab, grammars) for _ in token_ids]
        work[kind] = partial(_draw, samplers, logits)
    work["log-probabilities, best 5"] = partial(
        score_rows, logits, token_ids, 5, model.vocabulary.piece
    )
    rows = []
    for kind, run in work.items():
        seconds = _median_seconds(run)
        rows.append(
            f"| {name} | {model.info.num_vocab} | {decode_s * 1e3:.1f} | {kind} "
            f"| {seconds * 1e3:.2f} | {seconds / decode_s:.3f} |"
        )
    return rows


def _sampler(sampling: Sampling, num_vocab: int, grammars: Grammars) -> Sampler:
    return Sampler(
        sampling,
        num_vocab=num_vocab,
        token_ids=_PROMPT,
        num_prompt_tokens=len(_PROMPT),
        grammars=grammars,
    )


def _draw(samplers: Sequence[Sampler], logits: Logits) -> None:
    for sampler, row in zip(samplers, logits, strict=True):
        sampler.sample(row, len(_PROMPT))


def _median_seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times[1:])
