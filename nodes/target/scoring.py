"""Log-probabilities of tokens from the target's raw logits, independent of the sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from nodes.engine.protocol import Logits
from nodes.engine.sampling import top_k_ids
from nodes.messages import Score, TokenScores

# The score of tokens that a model rules out, because messages hold no infinities.
_LEAST_LOGPROB: Final = -9999.0


def score_rows(
    logits: Logits, token_ids: Sequence[int], num_top: int, piece: Callable[[int], bytes]
) -> tuple[TokenScores, ...]:
    """Score one token a row, with the num_top best tokens of the row; ties go to the lowest id.

    logits: (n, num_vocab), with n at least the number of tokens; row i belongs to token_ids[i].
    """
    return tuple(
        _scored(row, token_id, num_top, piece)
        for row, token_id in zip(logits, token_ids, strict=False)
    )


def _scored(row: Logits, token_id: int, num_top: int, piece: Callable[[int], bytes]) -> TokenScores:
    exact = row.astype(np.float64)
    best = exact.max()
    exact -= best
    np.exp(exact, out=exact)
    norm = float(best) + float(np.log(exact.sum()))

    def score(scored_id: int) -> Score:
        logprob = float(row[scored_id]) - norm
        # This comparison also replaces NaN.
        known = logprob if logprob > _LEAST_LOGPROB else _LEAST_LOGPROB
        return Score(scored_id, known, piece(scored_id))

    top = top_k_ids(row, num_top).tolist() if num_top else []
    return TokenScores(score(token_id), tuple(score(top_id) for top_id in top))
