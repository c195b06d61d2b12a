"""The noise of law 1: standard Gumbel noise as a function of seed, choice, position and token."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from airdraft.nodes.engine import portable_math

_U64 = np.uint64
_MASK64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(x: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014) on one 64-bit integer."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


def position_key(seed: int, choice: int, position: int) -> int:
    """Returns the key for the hashes of one position of a stream, 0 to 2^64 - 1."""
    key = _mix((seed + _GOLDEN) & _MASK64)
    key = _mix((key ^ (choice * _GOLDEN & _MASK64)) & _MASK64)
    return _mix((key + position * 0xD1342543DE82EF95) & _MASK64)


def hash_bits(key: int, token_ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Returns (n,) hashes of (n,) token ids: the top 52 bits of SplitMix64 seeded with `key`.

    key: 0 to 2^64 - 1. Hash i is that of key + i * 0x9e3779b97f4a7c15 modulo 2^64.
    """
    x = token_ids * _U64(_GOLDEN)
    x += _U64(key)
    y = x >> _U64(30)
    x ^= y
    x *= _U64(0xBF58476D1CE4E5B9)
    np.right_shift(x, _U64(27), out=y)
    x ^= y
    x *= _U64(0x94D049BB133111EB)
    np.right_shift(x, _U64(31), out=y)
    x ^= y
    x >>= _U64(12)
    return x


def _uniform(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    # This is exact. With 53 bits the largest value plus one half would round up to 1, whose noise
    # is infinite.
    uniform: npt.NDArray[np.float64] = (bits.astype(np.float64) + 0.5) * 2.0**-52
    return uniform


def gumbel_of_bits(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Returns -log(-log(u)) of (n,) hashes, u = (bits + 1/2) / 2^52, by the portable logarithm."""
    return -portable_math.log(-portable_math.log(_uniform(bits)))


def rough_gumbel_of_bits(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Returns the noise with a relative error of 10^-9 or less, in a tenth of the time."""
    noise: npt.NDArray[np.float64] = -np.log(-np.log(_uniform(bits)))
    return noise


def gumbel_noise(
    seed: int, choice: int, position: int, token_ids: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Returns (n,) float64 Gumbel noise of (n,) token ids at an absolute position of a stream."""
    ids = np.asarray(token_ids, dtype=np.uint64)
    return gumbel_of_bits(hash_bits(position_key(seed, choice, position), ids))


def drawn_ids(seed: int, num_ids: int, num_vocab: int) -> list[int]:
    """Returns pseudo-random token ids for probes: hash i of `seed`, modulo num_vocab.

    seed: 0 to 2^64 - 1. The ids must be the same in every version, but numpy's generators may
    change from version to version.
    """
    bits = hash_bits(seed, np.arange(num_ids, dtype=np.uint64))
    ids: list[int] = (bits % np.uint64(num_vocab)).tolist()
    return ids
