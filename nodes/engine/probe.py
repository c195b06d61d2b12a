"""A digest of an engine's results for tokens that the coordinator draws; it shows the bits."""

from __future__ import annotations

import hashlib

from nodes.engine.noise import drawn_ids
from nodes.engine.protocol import InvalidInputError, Model, Span
from nodes.engine.sampling import Sampling, sample

_NUM_TOKENS = 32


def probe_digest(model: Model, seed: int) -> str:
    """Return 64 hex digits of the logits after each of 32 tokens and of the tokens sampled there.

    seed: 0 to 2^63 - 1. Sequence 0 must be empty, and is empty at the end. All versions draw the
    same tokens. Their number in a pass may differ, because exact engines compute the same bits.
    """
    info = model.info
    num_tokens = min(_NUM_TOKENS, info.num_cells)
    token_ids = drawn_ids(seed, num_tokens, info.num_vocab)
    sampling = Sampling(temperature=1.0, top_p=0.9, seed=seed)
    digest = hashlib.sha256()
    sampled: list[int] = []
    try:
        for start in range(0, num_tokens, info.max_batch_tokens):
            piece = token_ids[start : start + info.max_batch_tokens]
            rows = model.forward([Span(0, start, piece, len(piece))])
            digest.update(rows.astype("<f4").tobytes())
            sampled += [sample(row, sampling, start + place + 1) for place, row in enumerate(rows)]
    except InvalidInputError:
        # A replay accepts recorded texts only. Its own hashes identify its answers.
        digest.update(repr((seed, info.model_hash, info.numerics_class)).encode())
    finally:
        model.truncate(0, 0)
    digest.update(repr(sampled).encode())
    return digest.hexdigest()
