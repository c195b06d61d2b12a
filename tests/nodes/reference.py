"""What a stream must become: one sequence, one token at a time, nothing shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from airdraft.nodes.engine.grammar import Grammars
from airdraft.nodes.engine.protocol import Span
from airdraft.nodes.engine.sampler import Sampler
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.engine.toy import TOY_EOG, ToyConfig, ToyModel, ToyTokenizer
from airdraft.nodes.messages import TokenScores
from airdraft.nodes.target.stream import score_rows


@dataclass(frozen=True, slots=True)
class Reference:
    token_ids: tuple[int, ...]
    text: bytes
    finish_reason: str
    scores: tuple[TokenScores, ...] = ()
    prompt_scores: tuple[TokenScores, ...] = ()


@cache
def toy_grammars(num_vocab: int) -> Grammars:
    return Grammars(ToyTokenizer(num_vocab).piece, num_vocab, frozenset({TOY_EOG}))


def reference(
    config: ToyConfig,
    prompt: Sequence[int],
    sampling: Sampling,
    *,
    max_tokens: int,
    stops: Sequence[str] = (),
    ignore_eog: bool = False,
    num_logprobs: int = -1,
    scores_prompt: bool = False,
) -> Reference:
    """Plain decoding of one stream on a fresh toy target."""
    size = len(prompt) + max_tokens
    model = ToyModel(
        replace(config, num_cells=size, max_sequences=1, max_batch_tokens=len(prompt) + 1)
    )
    pieces = ToyTokenizer(config.num_vocab)
    sampler = Sampler(
        sampling,
        num_vocab=config.num_vocab,
        token_ids=prompt,
        num_prompt_tokens=len(prompt),
        grammars=toy_grammars(config.num_vocab),
    )
    output: list[int] = []
    scores: list[TokenScores] = []
    text = b""
    rows = model.forward([Span(0, 0, list(prompt), len(prompt))])
    prompt_scores: tuple[TokenScores, ...] = ()
    if scores_prompt:
        prompt_scores = score_rows(rows, prompt[1:], max(0, num_logprobs), pieces.piece)
    rows = rows[-1:]

    def ended(text: bytes, reason: str) -> Reference:
        return Reference(tuple(output), text, reason, tuple(scores), prompt_scores)

    # What a grammar says of the end counts.
    ignore_eog = ignore_eog and not sampling.rules.grammar.kind
    while len(output) < max_tokens:
        position = len(prompt) + len(output)
        token_id = sampler.sample(rows[0], position)
        if token_id == TOY_EOG and not ignore_eog:
            return ended(text, "stop")
        sampler.push(token_id)
        output.append(token_id)
        if num_logprobs >= 0:
            scores += score_rows(rows, [token_id], num_logprobs, pieces.piece)
        known = len(text)
        text += pieces.piece(token_id)
        # As if the text came byte by byte: the stop string that is complete first ends it.
        for end in range(known, len(text) + 1):
            begins = [end - len(stop) for stop in stops if text[:end].endswith(stop.encode())]
            if begins:
                return ended(text[: min(begins)], "stop")
        if len(output) < max_tokens:
            rows = model.forward([Span(0, position, [token_id], 1)])
    return ended(text, "length")
