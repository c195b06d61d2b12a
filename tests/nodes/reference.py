"""What a stream must become: one sequence, one token at a time, nothing shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nodes.engine.protocol import Span
from nodes.engine.sampling import Sampling, sample
from nodes.engine.toy import TOY_EOG, ToyConfig, ToyModel, ToyTokenizer


@dataclass(frozen=True, slots=True)
class Reference:
    token_ids: tuple[int, ...]
    text: bytes
    finish_reason: str


def reference(
    config: ToyConfig,
    prompt: Sequence[int],
    sampling: Sampling,
    *,
    max_tokens: int,
    stops: Sequence[str] = (),
    ignore_eog: bool = False,
) -> Reference:
    """Plain decoding of one stream on a fresh toy target."""
    size = len(prompt) + max_tokens
    model = ToyModel(
        replace(config, num_cells=size, max_sequences=1, max_batch_tokens=len(prompt) + 1)
    )
    pieces = ToyTokenizer(config.num_vocab)
    output: list[int] = []
    text = b""
    rows = model.forward([Span(0, 0, list(prompt), 1)])
    while True:
        position = len(prompt) + len(output)
        token_id = sample(rows[0], sampling, position)
        if token_id == TOY_EOG and not ignore_eog:
            return Reference(tuple(output), text, "stop")
        output.append(token_id)
        known = len(text)
        text += pieces.piece(token_id)
        # As if the text came byte by byte: the stop string that is complete first ends it.
        for end in range(known, len(text) + 1):
            begins = [end - len(stop) for stop in stops if text[:end].endswith(stop.encode())]
            if begins:
                return Reference(tuple(output), text[: min(begins)], "stop")
        if len(output) == max_tokens:
            return Reference(tuple(output), text, "length")
        rows = model.forward([Span(0, position, [token_id], 1)])
