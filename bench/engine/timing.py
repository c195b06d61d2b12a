"""Times of an engine's work: passes by size, steps of many sequences, sampling, a prompt.

Work of different sizes is timed in turns, so that a machine's drift affects all sizes alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bench.bare import SKIPPED_STEPS
from nodes.engine.protocol import Logits, Model, Span
from nodes.engine.sampler import Sampler
from nodes.engine.sampling import Sampling
from policies.latency import NodeCosts

NUM_ROWS = 16
PASS_SIZES = (1, 2, 4, 8, 16, 32)
STEP_SIZES = (1, 2, 4, 8, 16)
KINDS = {
    "greedy": Sampling(),
    "T 0.8, top-k 40, top-p 0.95": Sampling(temperature=0.8, top_k=40, top_p=0.95),
}
Work = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Timed:
    """One kind of work. seconds: of each repeat. calibrated_s: seconds by the cost table that plans
    use; 0 if it has none. is_pass: whether it is a pass of the model, not work after it.
    """

    what: str
    num_tokens: int
    seconds: tuple[float, ...]
    calibrated_s: float = 0.0
    is_pass: bool = True

    @property
    def tokens_per_s(self) -> tuple[float, ...]:
        return tuple(self.num_tokens / each for each in self.seconds)


def measure(
    model: Model, costs: NodeCosts, used_cells: int, prompt_tokens: int, repeats: int
) -> list[Timed]:
    """Time all kinds of work. costs: the model's calibrated costs. Leaves the cache empty.

    Raises ValueError if the model's cache is too small.
    """
    num_cells = max(used_cells + PASS_SIZES[-1], 2 * max(STEP_SIZES[-1], NUM_ROWS), prompt_tokens)
    if model.info.num_cells < num_cells:
        raise ValueError(f"{num_cells} cells are needed, the cache has {model.info.num_cells}")
    ids: list[int] = np.random.default_rng(1).integers(0, model.info.num_vocab, num_cells).tolist()
    return [
        *_passes(model, costs, ids, used_cells, repeats),
        *_steps(model, costs, ids, used_cells, repeats),
        *_sampling(model, ids, repeats),
        *_prompt(model, ids[:prompt_tokens], repeats),
    ]


def _passes(
    model: Model, costs: NodeCosts, ids: Sequence[int], used_cells: int, repeats: int
) -> Iterator[Timed]:
    """Time passes of one sequence that has all used cells, as for verifying so many tokens."""
    _read(model, 0, ids[:used_cells])

    def work(size: int) -> Work:
        span = Span(0, used_cells, ids[used_cells : used_cells + size], size)
        return lambda: _pass_s(model, [span])

    found = _in_turns([work(size) for size in PASS_SIZES], repeats)
    model.truncate(0, 0)
    for size, seconds in zip(PASS_SIZES, found, strict=True):
        known = costs.decode.at(size, used_cells, used_cells)
        yield Timed(f"pass of {_counted(size, 'token')}", size, seconds, known)


def _steps(
    model: Model, costs: NodeCosts, ids: Sequence[int], used_cells: int, repeats: int
) -> Iterator[Timed]:
    """Time passes with one token of each of several sequences, which share the used cells."""
    most = STEP_SIZES[-1]
    own_cells = max(1, used_cells // most)
    for seq_id in range(most):
        _read(model, seq_id, ids[:own_cells])

    def work(size: int) -> Work:
        spans = [Span(seq_id, own_cells, ids[seq_id : seq_id + 1], 1) for seq_id in range(size)]
        return lambda: _pass_s(model, spans)

    found = _in_turns([work(size) for size in STEP_SIZES], repeats)
    for seq_id in range(most):
        model.truncate(seq_id, 0)
    for size, seconds in zip(STEP_SIZES, found, strict=True):
        known = costs.decode.at(size, most * own_cells, own_cells)
        yield Timed(f"step of {_counted(size, 'sequence')}", size, seconds, known)


def _sampling(model: Model, ids: Sequence[int], repeats: int) -> Iterator[Timed]:
    """Time sampling from real logits: a filter's cost depends on how many tokens it leaves."""
    logits = model.forward([Span(k, 0, ids[k : k + 1], 1) for k in range(NUM_ROWS)]).copy()
    for seq_id in range(NUM_ROWS):
        model.truncate(seq_id, 0)
    found = _in_turns([_drawing(sampling, logits) for sampling in KINDS.values()], repeats)
    for kind, seconds in zip(KINDS, found, strict=True):
        yield Timed(f"sampling of {NUM_ROWS} rows, {kind}", NUM_ROWS, seconds, is_pass=False)


def _drawing(sampling: Sampling, logits: Logits) -> Work:
    sampler = Sampler(sampling)

    def work() -> float:
        start = time.perf_counter()
        for row in logits:
            sampler.sample(row, 1)
        return time.perf_counter() - start

    return work


def _prompt(model: Model, ids: Sequence[int], repeats: int) -> Iterator[Timed]:
    seconds = _in_turns([lambda: prompt_s(model, ids)], repeats)[0]
    yield Timed(f"prompt of {len(ids)} tokens", len(ids), seconds)


def prompt_s(model: Model, ids: Sequence[int]) -> float:
    """Return the seconds from a prompt to the next token; the cache is empty before and after."""
    start = time.perf_counter()
    _read(model, 0, ids, num_outputs=1)
    seconds = time.perf_counter() - start
    model.truncate(0, 0)
    return seconds


def decode_tokens_per_s(model: Model, num_tokens: int) -> float:
    """Return the tokens/s of one stream of likeliest tokens, counted as in the bare loop."""
    token_id, start = 1000 % model.info.num_vocab, 0.0
    for position in range(num_tokens):
        if position == SKIPPED_STEPS:
            start = time.perf_counter()
        token_id = int(model.forward([Span(0, position, [token_id], 1)])[0].argmax())
    seconds = time.perf_counter() - start
    model.truncate(0, 0)
    return (num_tokens - SKIPPED_STEPS) / seconds


def _read(model: Model, seq_id: int, ids: Sequence[int], num_outputs: int = 0) -> None:
    """Put tokens into the cache, in passes as large as the model permits."""
    chunk = model.info.max_batch_tokens
    for first in range(0, len(ids), chunk):
        part = ids[first : first + chunk]
        is_last = first + chunk >= len(ids)
        model.forward([Span(seq_id, first, part, num_outputs if is_last else 0)])


def _pass_s(model: Model, spans: Sequence[Span]) -> float:
    """Return the seconds of one pass, and remove its tokens from the cache."""
    start = time.perf_counter()
    model.forward(spans)
    seconds = time.perf_counter() - start
    for span in spans:
        model.truncate(span.seq_id, span.start)
    return seconds


def _in_turns(works: Sequence[Work], repeats: int) -> list[tuple[float, ...]]:
    """Return the seconds of each work, timed in turns `repeats` times after one warm-up."""
    turns = [[work() for work in works] for _ in range(repeats + 1)][1:]
    return list(zip(*turns, strict=True))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
