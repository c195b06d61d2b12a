"""What a model says at each position of a known text as one sequence alone, and its pass times."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from airdraft.nodes.engine.llama_abi import load_model
from airdraft.nodes.engine.protocol import Logits, Model, Span
from airdraft.nodes.engine.sampler import Sampler
from airdraft.nodes.engine.sampling import Sampling, probability, ranking
from airdraft.nodes.engine.vocab import LlamaTokenizer
from airdraft.policies.acceptance import OtherChoices

_CHUNK = 64
_ROUNDS = 5
NUM_OTHERS = OtherChoices().count


def tokenizer_of(path: Path) -> LlamaTokenizer:
    """Returns the tokenizer of a model, of which only the vocabulary is loaded."""
    return LlamaTokenizer(load_model(path, gpu_layers=0, repack=False, vocab_only=True))


def read(model: Model, token_ids: Sequence[int]) -> None:
    """Read tokens into the empty sequence 0."""
    for start in range(0, len(token_ids), _CHUNK):
        model.forward([Span(0, start, token_ids[start : start + _CHUNK])])


def output_rows(
    model: Model, prompt_ids: Sequence[int], output_ids: Sequence[int]
) -> Iterator[Logits]:
    """Yield the logits of each output position, given all before it; a later one overwrites them.

    At the end the sequence is empty again.
    """
    read(model, prompt_ids[:-1])
    inputs = [prompt_ids[-1], *output_ids[:-1]]
    for start in range(0, len(inputs), _CHUNK):
        piece = inputs[start : start + _CHUNK]
        yield from model.forward([Span(0, len(prompt_ids) - 1 + start, piece, len(piece))])
    model.truncate(0, 0)


def _sampler_of(model: Model, sampling: Sampling, prompt_ids: Sequence[int]) -> Sampler:
    """Returns a sampler of the text after a prompt."""
    return Sampler(
        sampling,
        num_vocab=model.info.num_vocab,
        token_ids=prompt_ids,
        num_prompt_tokens=len(prompt_ids),
    )


def decoded(
    model: Model, prompt_ids: Sequence[int], sampling: Sampling, max_tokens: int
) -> Iterator[int]:
    """Yield the tokens of sequence 0, one a pass, up to one that ends the text.

    The caller empties the sequence.
    """
    read(model, prompt_ids[:-1])
    sampler, last = _sampler_of(model, sampling, prompt_ids), prompt_ids[-1]
    for position in range(len(prompt_ids), len(prompt_ids) + max_tokens):
        last = sampler.sample(model.forward([Span(0, position - 1, [last], 1)])[0], position)
        yield last
        if last in model.info.eog_token_ids:
            return
        sampler.push(last)


def guesses_of(
    draft: Model, prompt_ids: Sequence[int], output_ids: Sequence[int], sampling: Sampling
) -> tuple[list[int], list[float], list[tuple[int, ...]]]:
    """Returns a draft's guess at each output position, its own probability of the guess, and what
    it would have said otherwise, the likeliest first."""
    sampler = _sampler_of(draft, sampling, prompt_ids)
    token_ids, probabilities, others = list[int](), list[float](), list[tuple[int, ...]]()
    rows = zip(output_ids, output_rows(draft, prompt_ids, output_ids), strict=True)
    for position, (output_id, logits) in enumerate(rows, len(prompt_ids)):
        token_ids.append(guess := sampler.sample(logits, position))
        probabilities.append(probability(logits, guess))
        said = ranking(logits, sampling, position, NUM_OTHERS + 1)
        others.append(tuple(each for each in said if each != guess)[:NUM_OTHERS])
        sampler.push(output_id)
    return token_ids, probabilities, others


def pass_times(model: Model, sizes: Sequence[int], cells: int) -> dict[int, float]:
    """Returns the median seconds of passes of one sequence behind `cells` tokens, by their size.

    Passes of all sizes take turns, _ROUNDS times.
    """
    ids = np.random.default_rng(1).integers(0, model.info.num_vocab, cells + max(sizes)).tolist()
    read(model, ids[:cells])
    found: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(_ROUNDS):
        for size, seconds in found.items():
            began = time.perf_counter()
            model.forward([Span(0, cells, ids[cells : cells + size], size)])
            seconds.append(time.perf_counter() - began)
            model.truncate(0, cells)
    model.truncate(0, 0)
    return {size: median(seconds) for size, seconds in found.items()}
