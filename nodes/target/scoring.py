"""Log-probabilities of tokens by the target's raw logits, whatever the sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from nodes.engine.protocol import Logits
from nodes.engine.sampling import top_k_ids
from nodes.messages import Score, TokenScores

# Of tokens that a model rules out; the wire has no infinities.
_LEAST_LOGPROB: Final = -9999.0


def score_rows(
    logits: Logits, token_ids: Sequence[int], num_top: int, piece: Callable[[int], bytes]
) -> tuple[TokenScores, ...]:
    """One token a row, and the num_top best of the row, ties to the lowest id.

    logits: (n, num_vocab) with n at least the number of tokens; each row is of the token's place.
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
        # What is no number is no probability either.
        known = logprob if logprob > _LEAST_LOGPROB else _LEAST_LOGPROB
        return Score(scored_id, known, piece(scored_id))

    top = top_k_ids(row, num_top).tolist() if num_top else []
    return TokenScores(score(token_id), tuple(score(top_id) for top_id in top))
