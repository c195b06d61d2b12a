"""Sampling by law 1: every position has its own noise, so a sample is an argmax.

raw logits -> [logit bias -> penalties -> grammar mask: their place, not used yet] -> / T
-> top-k -> top-p -> min-p -> + Gumbel noise of (seed, choice, position, token id) -> argmax.
Two nodes that repeat these steps on equal logits choose equal tokens, whatever else they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nodes.engine.protocol import Logits

_U64 = np.uint64
_MASK64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_BLOCK = 64
# Below the best logit by more than this, a token is only looked at if its noise is extreme.
_BULK_GAP = 8.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one stream samples. temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 are off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    choice: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 100.0:
            raise ValueError(f"temperature {self.temperature} outside 0..100")
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
    """(n,) token ids -> (n,) hashes, the top 53 bits of SplitMix64 seeded with `key`."""
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
    x >>= _U64(11)
    return x


def _gumbel_of_bits(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    uniform = (bits.astype(np.float64) + 0.5) * 2.0**-53
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
    if k >= num_vocab or num_blocks <= k:
        candidates = np.arange(num_vocab)
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


def _keep_top_p(scaled: npt.NDArray[np.float64], top_p: float, min_p: float) -> int:
    """How many of the scaled logits, best first, top-p and then min-p leave."""
    weights = np.exp(scaled - scaled[0])
    keep = len(scaled)
    if top_p < 1.0:
        cumulative = np.cumsum(weights)
        keep = int(np.searchsorted(cumulative, top_p * cumulative[-1])) + 1
    if min_p > 0.0:
        # weights are relative to the best one, which is what min-p compares with.
        keep = min(keep, int(np.count_nonzero(weights >= min_p)))
    return max(1, min(keep, len(scaled)))


def _noisy_argmax(logits: Logits, sampling: Sampling, position: int) -> int:
    """argmax of logits / T + noise over the whole vocabulary.

    Most tokens lie far below the best: for those only the hash is computed, and the logarithms
    only where the hash is large enough to win. The result is that of the full computation.
    """
    key = _position_key(sampling.seed, sampling.choice, position)
    temperature = sampling.temperature
    best_logit = float(logits.max())
    near = np.flatnonzero(logits >= best_logit - _BULK_GAP * temperature)
    scores = logits[near].astype(np.float64) / temperature
    scores += _gumbel_of_bits(_hash_bits(key, near.astype(np.uint64)))
    winner = int(scores.argmax())
    best_id, best_score = int(near[winner]), float(scores[winner])
    # A far token scores at most best/T - gap + noise; turn "may win" into a bound on its hash.
    needed = best_score - (best_logit / temperature - _BULK_GAP)
    bound = np.exp(-np.exp(-needed)) if needed > -3.0 else 0.0
    bits = _hash_bits(key, np.arange(logits.shape[0], dtype=np.uint64))
    far = np.flatnonzero(bits >= _U64(max(0.0, (bound - 1e-9)) * 2.0**53))
    scores = logits[far].astype(np.float64) / temperature + _gumbel_of_bits(bits[far])
    if len(far):
        winner = int(scores.argmax())
        if scores[winner] > best_score or (scores[winner] == best_score and far[winner] < best_id):
            best_id = int(far[winner])
    return best_id


def sample(logits: Logits, sampling: Sampling, position: int) -> int:
    """The token of one position, law 1.

    logits: (num_vocab,) float32, raw. position: absolute index of the token to be chosen in
    prompt + output. Returns its id.
    """
    if sampling.temperature == 0.0:
        return int(logits.argmax())
    if sampling.top_k == 0 and sampling.top_p >= 1.0 and sampling.min_p == 0.0:
        return _noisy_argmax(logits, sampling, position)
    if sampling.top_k > 0:
        ids = top_k_ids(logits, sampling.top_k)
    else:
        ids = _reachable_ids(logits, sampling)
    scaled = logits[ids].astype(np.float64) / sampling.temperature
    ids = ids[: _keep_top_p(scaled, sampling.top_p, sampling.min_p)]
    scores = scaled[: len(ids)] + gumbel_noise(sampling.seed, sampling.choice, position, ids)
    best = float(scores.max())
    return int(ids[scores == best].min())


def _reachable_ids(logits: Logits, sampling: Sampling) -> npt.NDArray[np.int64]:
    """Without top-k: the tokens that min-p keeps anyway, or all, best first."""
    if sampling.min_p > 0.0 and sampling.top_p >= 1.0:
        floor = float(logits.max()) + sampling.temperature * (np.log(sampling.min_p) - 1e-6)
        ids = np.flatnonzero(logits >= floor)
        order = np.argsort(-logits[ids], kind="stable")
        kept: npt.NDArray[np.int64] = ids[order]
        return kept
    return np.argsort(-logits, kind="stable")


def sample_rows(
    logits: Logits, sampling: Sampling, position: int, guesses: Sequence[int]
) -> tuple[list[int], int]:
    """Verify guesses: sample row after row while the samples equal the guesses.

    logits: (len(guesses) + 1, num_vocab), row j for position + j. Returns the tokens to commit
    (accepted guesses and the target's next token) and the number of accepted guesses.
    """
    token_ids: list[int] = []
    for index, row in enumerate(logits[: len(guesses) + 1]):
        token_id = sample(row, sampling, position + index)
        token_ids.append(token_id)
        if index == len(guesses) or token_id != guesses[index]:
            return token_ids, index
    raise ValueError(f"{len(logits)} rows of logits for {len(guesses)} guesses")
