"""Products: the same bits for any number of tokens and instructions, and accurate."""

import numpy as np
import pytest

from tests.engine.kernels.ours import (
    K_TYPES,
    TYPES,
    Bytes,
    Floats,
    Packed,
    floats_of,
    quantize,
    runnable,
)

K_QUANTS = tuple(K_TYPES)
# Rows that fill groups of sixteen and rows that do not; an odd number of blocks of 32 columns.
SHAPES = ((48, 1536), (33, 896), (7, 96))


def shapes_of(kind: str) -> list[tuple[int, int]]:
    """K-quants have blocks of 256 columns."""
    if kind in K_QUANTS:
        return [(rows, max(256, columns // 256 * 256)) for rows, columns in SHAPES]
    return list(SHAPES)


CASES = [(kind, *shape) for kind in TYPES for shape in shapes_of(kind)]


def drawn(rows: int, columns: int) -> tuple[Floats, Floats]:
    """Weights, and activations of 37 tokens with a few large ones among them."""
    draw = np.random.default_rng([rows, columns])
    x = draw.standard_normal((37, columns)).astype(np.float32)
    x[:, ::97] *= 8
    return draw.standard_normal((rows, columns)).astype(np.float32) / 50, x


@pytest.mark.parametrize(("kind", "rows", "columns"), CASES)
def test_bits_depend_on_neither_batch_nor_threads_nor_instructions(
    kind: str, rows: int, columns: int
) -> None:
    weights, x = drawn(rows, columns)
    packed = Packed(kind, quantize(kind, weights), columns)
    alone = np.concatenate([packed.multiply("any", x[i : i + 1]) for i in range(len(x))])
    assert np.isfinite(alone).all()
    for name in runnable():
        for tokens in (*range(1, 18), 31, 32, 33, 37):
            found = packed.multiply(name, x[:tokens], cut=tokens % packed.num_groups)
            assert np.array_equal(found, alone[:tokens]), (name, tokens)


@pytest.mark.parametrize(("kind", "rows", "columns"), CASES)
def test_errors_are_those_of_rounding_activations_to_8_bits(
    kind: str, rows: int, columns: int
) -> None:
    """As ggml does. Of sums of floats alone they are about 1e-7."""
    weights, x = drawn(rows, columns)
    stored = quantize(kind, weights)
    floats = floats_of(kind, stored, columns).astype(np.float64)
    true = x.astype(np.float64) @ floats.T
    blocks = x.astype(np.float64).reshape(len(x), -1, 256 if kind in K_QUANTS else 32)
    scales = abs(blocks).max(axis=2, keepdims=True) / 127
    rounded = (np.round(blocks / scales) * scales).reshape(x.shape) @ floats.T

    def error(found: Floats) -> float:
        return float(np.sqrt(((found - true) ** 2).mean() / (true**2).mean()))

    ours = error(Packed(kind, stored, columns).multiply("any", x))
    assert ours < (2e-7 if kind in ("F16", "F32") else 1.001 * error(rounded))


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind not in ("F16", "F32")])
def test_no_sum_overflows(kind: str) -> None:
    """The largest whole numbers on both sides, and all bits of the weights set, or none."""
    columns = 512
    scales = quantize(kind, np.ones((1, columns), dtype=np.float32))
    for byte in (0x00, 0xFF, 0x80, 0x7F):
        stored = np.full((16, scales.shape[1]), byte, dtype=np.uint8)
        set_scales(kind, stored)
        weights = floats_of(kind, stored, columns).astype(np.float64)
        packed = Packed(kind, stored, columns)
        for signs in ((1, 1, 1, 1), (-1, -1, -1, -1), (1, -1, 1, -1), (1, 1, -1, -1)):
            x = np.tile(np.float32(signs), (1, columns // 4))
            true = x.astype(np.float64) @ weights.T
            for name in runnable():
                found = packed.multiply(name, x)
                np.testing.assert_allclose(found, true, rtol=1e-5, atol=1e-3 * abs(weights).max())


def set_scales(kind: str, stored: Bytes) -> None:
    """Give each block of rows the scale 1/64, and the minimum 1/64 where there is one."""
    size, at = {
        "Q4_0": (18, (0,)),
        "Q5_0": (22, (0,)),
        "Q8_0": (34, (0,)),
        "IQ4_NL": (18, (0,)),
        "Q4_K": (144, (0, 2)),
        "Q5_K": (176, (0, 2)),
        "Q6_K": (210, (208,)),
    }[kind]
    scale = np.frombuffer(np.float16(1 / 64).tobytes(), dtype=np.uint8)
    for block in range(0, stored.shape[1], size):
        for offset in at:
            stored[:, block + offset : block + offset + 2] = scale


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_token_that_is_no_number_leaves_the_others_alone(kind: str, value: float) -> None:
    weights, x = drawn(32, 512)
    packed = Packed(kind, quantize(kind, weights), 512)
    for name in runnable():
        good = packed.multiply(name, x[:5])
        broken = x[:5].copy()
        broken[2, 300] = value
        found = packed.multiply(name, broken)
        assert not np.isfinite(found[2]).any()
        others = [0, 1, 3, 4]
        assert np.array_equal(found[others], good[others])


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-30, 1e30])
def test_activations_of_any_size(kind: str, size: float) -> None:
    weights, x = drawn(32, 512)
    stored = quantize(kind, weights)
    packed = Packed(kind, stored, 512)
    tokens = (x[:3] * np.float32(size)).astype(np.float32)
    true = tokens.astype(np.float64) @ floats_of(kind, stored, 512).astype(np.float64).T
    for name in runnable():
        found = packed.multiply(name, tokens)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, true, rtol=0, atol=0.2 * size + 1e-30)
