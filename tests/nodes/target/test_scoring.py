from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.target.stream import score_rows


def piece(token_id: int) -> bytes:
    return b"<%d>" % token_id


@given(st.integers(0, 1000), st.sampled_from([1, 7, 300]), st.integers(0, 20), st.booleans())
def test_scores_are_of_the_raw_softmax_and_ties_go_to_the_lowest_id(
    seed: int, num_vocab: int, num_top: int, has_ties: bool
) -> None:
    drawn = np.random.default_rng(seed).normal(0.0, 9.0, (3, num_vocab))
    rows = (np.round(drawn / 9) if has_ties else drawn).astype(np.float32)
    token_ids = [seed % num_vocab] * 2
    scores = score_rows(rows, token_ids, num_top, piece)
    assert len(scores) == 2
    for row, scored in zip(rows, scores, strict=False):
        total = math.fsum(math.exp(float(x) - float(row.max())) for x in row)
        logprobs = [float(x) - float(row.max()) - math.log(total) for x in row]
        order = sorted(range(num_vocab), key=lambda i: (-row[i], i))[:num_top]
        assert [score.token_id for score in scored.top] == order
        for score in (scored.chosen, *scored.top):
            assert math.isclose(score.logprob, logprobs[score.token_id], abs_tol=1e-12)
            assert score.piece == piece(score.token_id)
        assert scored.chosen.token_id == seed % num_vocab


def test_what_a_model_rules_out_has_a_finite_score() -> None:
    row = np.array([[0.0, -np.inf, 0.0]], dtype=np.float32)
    (scored,) = score_rows(row, [1], 1, piece)
    assert scored.chosen.logprob == -9999.0
    assert math.isclose(scored.top[0].logprob, -math.log(2))
