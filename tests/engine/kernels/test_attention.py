"""Attention depends on the cells that a token sees, not on where they lie or what lies between."""

import numpy as np
import pytest

from tests.engine.kernels.ours import Floats, attend, runnable

UNSEEN = -np.inf


def drawn(heads: int, cells: int, size: int) -> tuple[Floats, Floats, Floats]:
    draw = np.random.default_rng([heads, cells, size])
    q = draw.standard_normal((heads, size)).astype(np.float32)
    k, v = draw.standard_normal((2, cells, size)).astype(np.float16).astype(np.float32)
    return q * 2, k, v


def check(q: Floats, k: Floats, v: Floats, mask: Floats, scale: float, atol: float = 3e-6) -> None:
    """It is attention, and every instruction set has the same bits."""
    found = attend("any", q, k, v, mask, scale)
    scores = (q.astype(np.float64) @ k.T) * scale + mask
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    true = (weights / weights.sum(axis=1, keepdims=True)) @ v
    np.testing.assert_allclose(found, true, rtol=0, atol=atol)
    for name in runnable():
        for unfolded in (False, True):
            other = attend(name, q, k, v, mask, scale, unfolded=unfolded)
            assert np.array_equal(other, found), (name, unfolded)


@pytest.mark.parametrize("size", [32, 64, 96, 128, 256])
@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6, 7])
@pytest.mark.parametrize("cells", [1, 63, 64, 65, 700])
def test_it_computes_attention(size: int, heads: int, cells: int) -> None:
    check(*drawn(heads, cells, size), np.zeros(cells), float(np.float32(size**-0.5)))


@pytest.mark.parametrize("factor", [0.0, 1e-3, 50.0, 1e4])
def test_scores_far_apart_and_equal_ones(factor: float) -> None:
    check(*drawn(2, 150, 64), np.zeros(150), factor, atol=1e-3)
    # A mask may add to scores.
    check(*drawn(2, 100, 64), np.linspace(-3, 0, 100).astype(np.float16).astype(np.float32), 0.125)


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
