"""Sampling by law 1: every position has its own noise, so a sample is an argmax.

raw logits -> logit bias -> penalties -> grammar mask (these three: sampler.py) -> / T
-> top-k -> top-p -> min-p -> + Gumbel noise of (seed, choice, position, token id) -> argmax.
Two nodes that repeat these steps on equal logits choose equal tokens, whatever else they do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nodes.engine.protocol import Logits, StreamError
from nodes.engine.rules import NO_RULES, LogitRules

_U64 = np.uint64
_MASK64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_BLOCK = 64
# Below the best logit by more than this, a token is only looked at if its noise is extreme.
_BULK_GAP = 8.0
# Top-p sorts this many of the best tokens first, and all of them only where these do not suffice.
_NUCLEUS_SIZE = 1024
# What a temperature must exceed for logits / T to stay finite and precise.
_LEAST_TEMPERATURE = 1e-6


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one stream samples. temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 are off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    choice: int = 0
    rules: LogitRules = NO_RULES

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 100.0:
            raise ValueError(f"temperature {self.temperature} outside 0..100")
        if 0.0 < self.temperature < _LEAST_TEMPERATURE:
            raise ValueError(
                f"temperature {self.temperature} is neither 0 nor at least {_LEAST_TEMPERATURE}"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k} is negative")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p {self.top_p} outside (0, 1]")
        if not 0.0 <= self.min_p <= 1.0:
            raise ValueError(f"min_p {self.min_p} outside 0..1")
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(f"seed {self.seed} outside 0..2^63-1")
        if not 0 <= self.choice < 1 << 32:
            raise ValueError(f"choice {self.choice} outside 0..2^32-1")
        self.rules.check()


def _mix(x: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014) on one 64-bit integer."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


def _position_key(seed: int, choice: int, position: int) -> int:
    key = _mix((seed + _GOLDEN) & _MASK64)
    key = _mix((key ^ (choice * _GOLDEN & _MASK64)) & _MASK64)
    return _mix((key + position * 0xD1342543DE82EF95) & _MASK64)


def _hash_bits(key: int, token_ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """(n,) token ids -> (n,) hashes, the top 52 bits of SplitMix64 seeded with `key`."""
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


def _gumbel_of_bits(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    # With 53 bits the largest value plus a half would round up to 1, whose noise is infinite.
    uniform = (bits.astype(np.float64) + 0.5) * 2.0**-52
    noise: npt.NDArray[np.float64] = -np.log(-np.log(uniform))
    return noise


def gumbel_noise(
    seed: int, choice: int, position: int, token_ids: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Standard Gumbel noise of (n,) token ids at an absolute position of a stream, (n,) float64."""
    ids = np.asarray(token_ids, dtype=np.uint64)
    return _gumbel_of_bits(_hash_bits(_position_key(seed, choice, position), ids))


def top_k_ids(logits: Logits, k: int) -> npt.NDArray[np.int64]:
    """The k largest of (num_vocab,) logits, best first, ties to the lowest id.

    Only blocks whose maximum reaches the k-th largest block maximum can hold one of them, so
    all but about k blocks of 64 are skipped.
    """
    num_vocab = logits.shape[0]
    num_blocks = num_vocab // _BLOCK
    if k >= num_vocab:
        candidates = np.arange(num_vocab)
    elif num_blocks <= k:
        candidates = np.flatnonzero(logits >= np.partition(logits, -k)[-k])
    else:
        head = logits[: num_blocks * _BLOCK].reshape(num_blocks, _BLOCK)
        maxima = head.max(axis=1)
        threshold = np.partition(maxima, num_blocks - k)[num_blocks - k]
        blocks = np.flatnonzero(maxima >= threshold)
        rows, columns = np.nonzero(head[blocks] >= threshold)
        candidates = blocks[rows] * _BLOCK + columns
        rest = np.flatnonzero(logits[num_blocks * _BLOCK :] >= threshold)
        candidates = np.concatenate([candidates, rest + num_blocks * _BLOCK])
    # candidates are in ascending id order, so a stable sort breaks ties to the lowest id.
    order = np.argsort(-logits[candidates], kind="stable")[:k]
    chosen: npt.NDArray[np.int64] = candidates[order]
    return chosen


def _kept_ids(logits: Logits, sampling: Sampling) -> npt.NDArray[np.int64]:
    """The ids that top-k, then top-p, then min-p leave, in no certain order; at least one."""
    if 0 < sampling.top_k < logits.shape[0]:
        ids = top_k_ids(logits, sampling.top_k)
        weights = _weights(logits[ids], float(logits[ids[0]]), sampling.temperature)
        return ids[: _num_kept(weights, float(weights.sum()), sampling)]
    if sampling.top_p < 1.0:
        return _nucleus_ids(logits, sampling)
    best_logit = float(logits.max())
    floor = best_logit + sampling.temperature * float(np.log(sampling.min_p))
    # A little lower, for the rounding to float32; the weights decide.
    ids = np.flatnonzero(logits >= floor - 1e-6 * (abs(floor) + sampling.temperature))
    weights = _weights(logits[ids], best_logit, sampling.temperature)
    return ids[weights >= sampling.min_p]


def _weights(logits: Logits, best_logit: float, temperature: float) -> npt.NDArray[np.float64]:
    """Probabilities at a temperature relative to that of the best logit."""
    weights = logits.astype(np.float64)
    # In place: fresh pages for every step would cost more than the arithmetic.
    weights /= temperature
    weights -= best_logit / temperature
    return np.exp(weights, out=weights)


def _num_kept(weights: npt.NDArray[np.float64], total: float, sampling: Sampling) -> int:
    """How many of the weights, best first, top-p of `total` and then min-p leave."""
    keep = len(weights)
    if sampling.top_p < 1.0:
        keep = min(keep, _num_reaching(weights, sampling.top_p * total))
    if sampling.min_p > 0.0:
        # weights are relative to the best one, which is what min-p compares with.
        keep = min(keep, int(np.count_nonzero(weights >= sampling.min_p)))
    return keep


def _num_reaching(weights: npt.NDArray[np.float64], wanted: float) -> int:
    """How many of the first weights sum up to `wanted`; one more than there are if all do not."""
    return int(np.searchsorted(np.cumsum(weights), wanted)) + 1


def _nucleus_ids(logits: Logits, sampling: Sampling) -> npt.NDArray[np.int64]:
    """Top-p and min-p over the whole vocabulary, without the order of the ids.

    Sorting values is many times faster than sorting ids, and equal logits have equal weights. The
    sums are over the same weights in the same order whatever the number of tokens sorted.
    """
    best_logit = float(logits.max())
    total = float(_weights(logits, best_logit, sampling.temperature).sum())
    for size in (min(_NUCLEUS_SIZE, len(logits)), len(logits)):
        best = np.sort(np.partition(logits, -size)[-size:])[::-1]
        weights = _weights(best, best_logit, sampling.temperature)
        if _num_reaching(weights, sampling.top_p * total) <= size:
            break
    keep = _num_kept(weights, total, sampling)
    last = best[keep - 1]
    ids = np.flatnonzero(logits >= last)
    if len(ids) > keep:
        # Of those that tie for the last place, the lowest ids stay.
        ids = np.delete(ids, np.flatnonzero(logits[ids] == last)[keep - len(ids) :])
    return ids


def _noisy_argmax(logits: Logits, sampling: Sampling, position: int) -> int:
    """argmax of logits / T + noise over the whole vocabulary.

    Most tokens lie far below the best: for those only the hash is computed, and the logarithms
    only where the hash is large enough to win. The result is that of the full computation.
    """
    key = _position_key(sampling.seed, sampling.choice, position)
    temperature = sampling.temperature
    best_logit = float(logits.max())
    # Rounded to a float32 here, so that the bound below is about exactly what was compared.
    floor = np.float32(best_logit - _BULK_GAP * temperature)
    near = np.flatnonzero(logits >= floor)
    scores = logits[near].astype(np.float64) / temperature
    scores += _gumbel_of_bits(_hash_bits(key, near.astype(np.uint64)))
    winner = int(scores.argmax())
    best_id, best_score = int(near[winner]), float(scores[winner])
    # A far token scores at most floor/T + noise; turn "may win" into a bound on its hash.
    needed = best_score - float(floor) / temperature
    bound = np.exp(-np.exp(-needed)) if needed > -3.0 else 0.0
    bits = _hash_bits(key, np.arange(logits.shape[0], dtype=np.uint64))
    far = np.flatnonzero(bits >= _U64(max(0.0, (bound - 1e-9)) * 2.0**52))
    scores = logits[far].astype(np.float64) / temperature + _gumbel_of_bits(bits[far])
    if len(far):
        winner = int(scores.argmax())
        if scores[winner] > best_score or (scores[winner] == best_score and far[winner] < best_id):
            best_id = int(far[winner])
    return best_id


def sample(logits: Logits, sampling: Sampling, position: int) -> int:
    """The token of one position, law 1.

    logits: (num_vocab,) float32, raw or, where the stream has rules, by these. position: absolute
    index of the token to be chosen in prompt + output. Returns its id. Raises StreamError for
    logits that are not numbers.
    """
    best_id = int(logits.argmax())
    if np.isnan(logits[best_id]):
        raise StreamError("the engine computed logits that are not numbers: check the model file")
    if sampling.temperature == 0.0:
        return best_id
    cuts_off = 0 < sampling.top_k < len(logits)
    if not cuts_off and sampling.top_p >= 1.0 and sampling.min_p == 0.0:
        return _noisy_argmax(logits, sampling, position)
    ids = _kept_ids(logits, sampling)
    scores = logits[ids].astype(np.float64) / sampling.temperature
    scores += gumbel_noise(sampling.seed, sampling.choice, position, ids)
    return int(ids[scores == scores.max()].min())


def probability(logits: Logits, token_id: int) -> float:
    """The model's probability of a token, whatever the sampling: softmax of (num_vocab,) logits."""
    best = logits.max()
    return float(np.exp(logits[token_id] - best) / np.exp(logits - best).sum())
