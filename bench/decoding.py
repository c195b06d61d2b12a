"""What a model says at each position of a known text, decoded as one sequence alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nodes.engine.protocol import Logits, Model, Span
from nodes.engine.sampling import Sampling, probability, sample

_CHUNK = 64


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


def guesses_of(
    draft: Model, prompt_ids: Sequence[int], output_ids: Sequence[int], sampling: Sampling
) -> tuple[list[int], list[float]]:
    """Return a draft's guess at each output position, and its own probability of the guess."""
    token_ids, probabilities = list[int](), list[float]()
    for position, logits in enumerate(output_rows(draft, prompt_ids, output_ids), len(prompt_ids)):
        token_ids.append(sample(logits, sampling, position))
        probabilities.append(probability(logits, token_ids[-1]))
    return token_ids, probabilities
