"""A logarithm and powers of two with the same bits on every CPU, which law 1 needs.

C libraries and numpy round logarithms and exponentials differently, depending on the CPU. This
module uses integers and those operations of float64 that IEEE 754 rounds in one way only:
+, -, *, / to nearest, comparisons, and exact conversions. Each is a separate numpy call, so no
compiler can fuse two of them into one that rounds once. The same steps give the same bits.
"""

from __future__ import annotations

from math import isqrt

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_SQRT_HALF = float.fromhex("0x1.6a09e667f3bcdp-1")
_LN_2 = float.fromhex("0x1.62e42fefa39efp-1")
# 1/21, 1/19, .. 1/3, 1: the series of the inverse hyperbolic tangent. Its next term is 3e-17.
_COEFFICIENTS = tuple(1.0 / n for n in range(21, 0, -2))

# The number of bits after the point in a power, and in its exponent.
POWER_BITS = 40
STEP_BITS = 20
_TABLE_BITS = STEP_BITS // 2
_ENTRY_BITS = 30
_ROOT_BITS = 256


def log(x: npt.ArrayLike) -> Floats:
    """Returns the natural logarithm of (n,) positive normal float64, with relative error 1e-15.

    x = m * 2^e, m in [sqrt(1/2), sqrt(2)); s = (m - 1) / (m + 1); t = s * s;
    p = 1/21; then p = p * t + 1/n for n = 19, 17, .. 1; result: e * ln 2 + (s + s) * p.
    """
    mantissa, exponent = np.frexp(np.asarray(x, dtype=np.float64))
    is_low = mantissa < _SQRT_HALF
    # Doubling is exact.
    mantissa = np.where(is_low, mantissa + mantissa, mantissa)
    exponent = np.where(is_low, exponent - 1, exponent)
    s = np.divide(np.subtract(mantissa, 1.0), np.add(mantissa, 1.0))
    t = np.multiply(s, s)
    p = np.full_like(t, _COEFFICIENTS[0])
    for coefficient in _COEFFICIENTS[1:]:
        np.multiply(p, t, out=p)
        np.add(p, coefficient, out=p)
    np.multiply(np.add(s, s), p, out=p)
    return np.add(np.multiply(exponent.astype(np.float64), _LN_2), p)


def power_of_half(steps: Integers) -> Integers:
    """Returns 2^(40 - steps / 2^20) of (n,) int64 from 0 to 41 * 2^20, rounded down.

    The relative error before rounding is at most 2e-9.

    steps = octaves * 2^20 + i * 2^10 + j: (high[i] * low[j]) >> (20 + octaves), where high[i] is
    2^(30 - i / 2^10) and low[j] is 2^(30 - j / 2^20), rounded to the nearest integer.
    """
    mask = (1 << _TABLE_BITS) - 1
    power = _LOW.take(steps & mask)
    rest = steps >> _TABLE_BITS
    power *= _HIGH.take(rest & mask)
    rest >>= _TABLE_BITS
    rest += 2 * _ENTRY_BITS - POWER_BITS
    power >>= rest
    return power


def _table(step_bits: int) -> Integers:
    """Returns (1024,) values 2^(30 - i / 2^step_bits), rounded to the nearest integer."""
    root = 1 << (_ROOT_BITS - 1)
    for _ in range(step_bits):
        root = isqrt(root << _ROOT_BITS)
    entries = []
    exact = 1 << (_ENTRY_BITS + _ROOT_BITS)
    for _ in range(1 << _TABLE_BITS):
        entries.append((exact + (1 << (_ROOT_BITS - 1))) >> _ROOT_BITS)
        exact = exact * root >> _ROOT_BITS
    return np.array(entries, dtype=np.int64)


_HIGH = _table(_TABLE_BITS)
_LOW = _table(STEP_BITS)
