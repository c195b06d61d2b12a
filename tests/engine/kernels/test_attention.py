"""Attention: what a token sees decides, not where it lies or what lies between."""

from __future__ import annotations

import numpy as np
import pytest

from tests.engine.kernels.ggml import Floats
from tests.engine.kernels.ours import attend, runnable

UNSEEN = -np.inf


def drawn(heads: int, cells: int, size: int) -> tuple[Floats, Floats, Floats]:
    draw = np.random.default_rng([heads, cells, size])
    q = draw.standard_normal((heads, size)).astype(np.float32)
    k, v = draw.standard_normal((2, cells, size)).astype(np.float16).astype(np.float32)
    return q * 2, k, v


def true_attention(q: Floats, k: Floats, v: Floats, scale: float) -> Floats:
    scores = (q.astype(np.float64) @ k.T) * scale
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (weights / weights.sum(axis=1, keepdims=True)) @ v


@pytest.mark.parametrize("size", [32, 64, 96, 128, 256])
@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6, 7])
@pytest.mark.parametrize("cells", [1, 63, 64, 65, 700])
def test_it_is_attention_and_every_instruction_set_has_its_bits(
    size: int, heads: int, cells: int
) -> None:
    q, k, v = drawn(heads, cells, size)
    scale = float(np.float32(size**-0.5))
    seen = np.zeros(cells)
    found = attend("any", q, k, v, seen, scale)
    np.testing.assert_allclose(found, true_attention(q, k, v, scale), rtol=0, atol=3e-6)
    for name in runnable():
        for unfolded in (False, True):
            other = attend(name, q, k, v, seen, scale, unfolded=unfolded)
            assert np.array_equal(other, found), (name, unfolded)


@pytest.mark.parametrize("seed", range(8))
def test_cells_of_others_change_no_bit(seed: int) -> None:
    draw = np.random.default_rng(seed)
    cells, all_cells = 300, 900
    q, k, v = drawn(3, cells, 64)
    alone = attend(runnable()[0], q, k, v, np.zeros(cells), 0.125)
    # Ours lie in order among others, whose contents are no numbers at all.
    ours = np.sort(draw.choice(all_cells, cells, replace=False))
    if seed % 2:
        ours = np.arange(cells) + draw.integers(0, all_cells - cells)
    many_k, many_v = (np.full((all_cells, 64), np.nan, dtype=np.float32) for _ in range(2))
    many_k[ours], many_v[ours] = k, v
    mask = np.full(all_cells, UNSEEN)
    mask[ours] = 0
    for name in runnable():
        for unfolded in (False, True):
            found = attend(name, q, many_k, many_v, mask, 0.125, unfolded=unfolded)
            assert np.array_equal(found, alone)


def test_heads_are_taken_together_for_speed_alone() -> None:
    q, k, v = drawn(7, 200, 128)
    together = attend(runnable()[0], q, k, v, np.zeros(200), 0.09)
    for head in range(7):
        alone = attend(runnable()[0], q[head : head + 1], k, v, np.zeros(200), 0.09)
        assert np.array_equal(alone[0], together[head])


def test_scores_far_apart_and_equal_ones() -> None:
    q, k, v = drawn(2, 150, 64)
    for factor in (0.0, 1e-3, 50.0, 1e4):
        found = attend("any", q, k, v, np.zeros(150), factor)
        np.testing.assert_allclose(found, true_attention(q, k, v, factor), rtol=0, atol=1e-3)
        assert all(
            np.array_equal(attend(n, q, k, v, np.zeros(150), factor), found) for n in runnable()
        )


def test_a_mask_may_add_to_scores() -> None:
    q, k, v = drawn(2, 100, 64)
    mask = np.linspace(-3, 0, 100).astype(np.float16).astype(np.float32)
    scores = q.astype(np.float64) @ k.T * 0.125 + mask
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    true = (weights / weights.sum(axis=1, keepdims=True)) @ v
    found = attend("any", q, k, v, mask, 0.125)
    np.testing.assert_allclose(found, true, rtol=0, atol=3e-6)
    for name in runnable():
        for unfolded in (False, True):
            other = attend(name, q, k, v, mask, 0.125, unfolded=unfolded)
            assert np.array_equal(other, found)
