"""Sampling by law 1: every position has its own noise, so a sample is an argmax.

raw logits -> logit bias -> penalties -> grammar mask (these three: sampler.py) -> / T
-> top-k -> top-p -> min-p -> + Gumbel noise of (seed, choice, position, token id) -> argmax.
Two nodes that apply these steps to equal logits choose equal tokens, on any CPU and whatever else
they run. The result depends only on integers, on +, -, *, / and comparisons of float64, and on
portable_math.py. Other versions and implementations must follow the same steps:

- bits: the top 52 bits of a hash of the four values (noise.py). u = (bits + 1/2) / 2^52.
  The noise is -log(-log(u)), with the portable logarithm.
- The weight of a token: steps = (best logit - logit) * (2^20 * log2(e) / T), cut to an integer, at
  most 41 * 2^20; weight = 2^(40 - steps / 2^20) by `power_of_half`, an integer.
- top-k keeps the k largest logits; ties go to the lowest id. Of these, top-p keeps the smallest
  number of the best whose exact sum of weights is at least floor(top_p * sum of all weights).
  Of these, min-p keeps those with (best logit - logit) / T <= -log(min_p), the portable logarithm.
- The token is the remaining one with the largest logit / T + noise; ties go to the lowest id.

numpy's exponentials and logarithms are only used to skip tokens that cannot win, and sums that
cannot matter. For this they must be right to one part in 10^10, which is a million times the error
that any of them has; those of float32 to one part in 10^5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from airdraft.nodes.engine import portable_math
from airdraft.nodes.engine.noise import (
    gumbel_of_bits,
    hash_bits,
    position_key,
    rough_gumbel_of_bits,
)
from airdraft.nodes.engine.protocol import Logits, StreamError
from airdraft.nodes.engine.rules import NO_RULES, LogitRules

_TOP_BLOCK = 64
# In units of T: a token further below the best logit is a candidate only if its noise is extreme.
_BULK_GAP = 8.0
# Top-p first sorts this many of the best tokens, and sorts all tokens only if these are too few.
_NUCLEUS_SIZE = 1024
# Weights and hashes are computed in blocks of this many tokens, which stay in a core's cache: a
# sample of 151,936 tokens at T = 1 took 0.5 instead of 1.6 ms.
_BLOCK = 16_384
# Below this temperature logits / T may be infinite or imprecise.
_LEAST_TEMPERATURE = 1e-6
# To be raised with every change of the steps above: nodes of two versions make different texts.
SAMPLING_VERSION = 2
_STEPS_PER_NAT = float.fromhex("0x1.71547652b82fep+20")
_MOST_STEPS = float(portable_math.POWER_BITS + 1 << portable_math.STEP_BITS)
# Twice the largest error of a score that is computed with numpy's logarithms: the absolute error of
# the noise, and the relative error of rounding.
_DOUBT = 1e-8
_RELATIVE_DOUBT = 1e-15


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one stream samples. temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 do nothing."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    choice: int = 0
    rules: LogitRules = NO_RULES

    def __post_init__(self) -> None:
        is_tiny = 0.0 < self.temperature < _LEAST_TEMPERATURE
        for name, is_right, why in (
            ("temperature", 0.0 <= self.temperature <= 100.0, "outside 0..100"),
            ("temperature", not is_tiny, f"is neither 0 nor at least {_LEAST_TEMPERATURE}"),
            ("top_k", self.top_k >= 0, "is negative"),
            ("top_p", 0.0 < self.top_p <= 1.0, "outside (0, 1]"),
            ("min_p", 0.0 <= self.min_p <= 1.0, "outside 0..1"),
            ("seed", 0 <= self.seed < 1 << 63, "outside 0..2^63-1"),
            ("choice", 0 <= self.choice < 1 << 32, "outside 0..2^32-1"),
        ):
            if not is_right:
                raise ValueError(f"{name} {getattr(self, name)} {why}")
        self.rules.check()


def top_k_ids(logits: Logits, k: int) -> npt.NDArray[np.int64]:
    """Returns the ids of the k largest of (num_vocab,) logits, best first, ties to the lowest id.

    All of them reach the k-th largest maximum of blocks of 64 logits, and few others do. These
    maxima are found many times faster than the k-th largest logit.
    """
    num_blocks = len(logits) // _TOP_BLOCK
    values = logits
    if num_blocks > k:
        values = logits[: num_blocks * _TOP_BLOCK].reshape(num_blocks, _TOP_BLOCK).max(axis=1)
    k = min(k, len(values))
    candidates = np.flatnonzero(logits >= np.partition(values, -k)[-k])
    # The candidates are in ascending order of ids, so a stable sort puts the lowest id first.
    order = np.argsort(-logits[candidates], kind="stable")[:k]
    chosen: npt.NDArray[np.int64] = candidates[order]
    return chosen


def _kept_ids(logits: Logits, best_logit: float, sampling: Sampling) -> npt.NDArray[np.int64]:
    """Returns the ids that remain after top-k, top-p and min-p, in any order; at least one."""
    temperature, min_p = sampling.temperature, sampling.min_p
    if 0 < sampling.top_k < logits.shape[0]:
        ids = top_k_ids(logits, sampling.top_k)
        if sampling.top_p < 1.0:
            weights = _weights(logits[ids], best_logit, temperature)
            ids = ids[: _num_reaching(weights, _share(sampling.top_p, int(weights.sum())))]
    elif sampling.top_p < 1.0:
        ids = _nucleus_ids(logits, best_logit, sampling)
    else:
        floor = best_logit - temperature * _most_gap(min_p)
        # A little lower because of the rounding to float32; the exact test on the gaps follows.
        ids = np.flatnonzero(logits >= floor - 1e-6 * (abs(floor) + temperature))
    if min_p > 0.0:
        gaps = best_logit - logits[ids].astype(np.float64)
        gaps /= temperature
        ids = ids[gaps <= _most_gap(min_p)]
    return ids


@lru_cache(maxsize=64)
def _most_gap(min_p: float) -> float:
    return -float(portable_math.log(min_p))


def _weights(logits: Logits, best_logit: float, temperature: float) -> npt.NDArray[np.int64]:
    """Returns the probabilities relative to that of the best logit, in units of 2^-40.

    They are integers, so that sums of up to 2^22 of them are exact in any order.
    """
    gaps = logits.astype(np.float64)
    # In place: new memory pages for every step would cost more than the arithmetic.
    np.subtract(best_logit, gaps, out=gaps)
    np.multiply(gaps, _STEPS_PER_NAT / temperature, out=gaps)
    np.minimum(gaps, _MOST_STEPS, out=gaps)
    return portable_math.power_of_half(gaps.astype(np.int64))


def _share(top_p: float, total: int) -> int:
    """Returns floor(top_p * total), computed exactly.

    It is rounded down so that 0.9 of ten equal weights keeps nine of them: the float64 nearest to
    0.9 is a little larger.
    """
    numerator, denominator = top_p.as_integer_ratio()
    return numerator * total // denominator


def _num_reaching(weights: npt.NDArray[np.int64], wanted: int) -> int:
    """Returns how many of the first weights are needed for the sum `wanted`.

    The result is one more than there are if the sum of all is smaller.
    """
    return int(weights.cumsum().searchsorted(wanted)) + 1


def _nucleus_ids(logits: Logits, best_logit: float, sampling: Sampling) -> npt.NDArray[np.int64]:
    """Returns the ids that top-p keeps of the whole vocabulary, in ascending order.

    Only values are sorted, which is many times faster than sorting ids. This works because equal
    logits have equal weights.
    """
    best = _best(logits, min(_NUCLEUS_SIZE, len(logits)))
    weights = _weights(best, best_logit, sampling.temperature)
    keep = _rough_nucleus(logits, best, weights, sampling)
    if keep is None:
        total = 0
        for start in range(0, len(logits), _BLOCK):
            block = logits[start : start + _BLOCK]
            total += int(_weights(block, best_logit, sampling.temperature).sum())
        wanted = _share(sampling.top_p, total)
        keep = _num_reaching(weights, wanted)
        if keep > len(best):
            best = _best(logits, len(logits))
            keep = _num_reaching(_weights(best, best_logit, sampling.temperature), wanted)
    last = best[keep - 1]
    ids = np.flatnonzero(logits >= last)
    if len(ids) > keep:
        # Of the tokens that tie for the last place, those with the lowest ids stay.
        ids = np.delete(ids, np.flatnonzero(logits[ids] == last)[keep - len(ids) :])
    return ids


def _best(logits: Logits, size: int) -> Logits:
    """Returns the largest logits in descending order."""
    return np.sort(np.partition(logits, -size)[-size:])[::-1]


def _rough_nucleus(
    logits: Logits, best: Logits, weights: npt.NDArray[np.int64], sampling: Sampling
) -> int | None:
    """Returns how many of the best logits top-p keeps; None if only exact sums can tell.

    best: (size,) the largest logits in descending order. weights: (size,) their weights. The sum of
    all other weights is computed with numpy's exponentials of float32. It decides only where an
    error of one in 10,000 of it, and of two units for each token, makes no difference.
    """
    scale = 1.0 / sampling.temperature
    rest = _rough_sum(logits, best[0], scale) - _rough_sum(best, best[0], scale)
    rest = 2.0**portable_math.POWER_BITS * max(0.0, rest)
    doubt = 1e-4 * rest + 2.0 * len(logits)
    known = int(weights.sum())
    least, most = (
        _num_reaching(weights, _share(sampling.top_p, known + max(0, round(others))))
        for others in (rest - doubt, rest + doubt)
    )
    return least if least == most <= len(best) else None


def _rough_sum(logits: Logits, best_logit: np.float32, scale: float) -> float:
    """Returns the sum of e^((logit - best logit) * scale), with exponentials of float32."""
    total = 0.0
    for start in range(0, len(logits), _BLOCK):
        gaps = logits[start : start + _BLOCK] - best_logit
        gaps *= np.float32(scale)
        total += float(np.exp(gaps, out=gaps).sum(dtype=np.float64))
    return total


def _noisy_argmax(logits: Logits, best_logit: float, sampling: Sampling, position: int) -> int:
    """Returns the argmax of logits / T + noise over the whole vocabulary.

    Most tokens lie far below the best. For these only the hash is computed, and the logarithms
    only if the hash is large enough to win. The result is the same as that of the full computation.
    """
    key = position_key(sampling.seed, sampling.choice, position)
    temperature = sampling.temperature
    # Rounded to a float32 here, so that the bound below uses exactly the value that is compared.
    floor = np.float32(best_logit - _BULK_GAP * temperature)
    near = np.flatnonzero(logits >= floor)
    scores = logits[near].astype(np.float64) / temperature
    scores += rough_gumbel_of_bits(hash_bits(key, near.astype(np.uint64)))
    least_score = _least_rough_score(scores)
    # A far token's score is at most floor / T + noise. From this follows the least hash with which
    # it can win. The exponentials have relative errors below 1e-10, and the bound's is below 1e-9.
    needed = least_score - float(floor) / temperature
    bound = math.exp(-math.exp(-needed)) - 1e-9 if needed > -3.0 else 0.0
    far = _ids_with_hashes_from(key, np.uint64(max(0.0, bound) * 2.0**52), len(logits))
    far = far[logits[far] < floor]
    ids = np.concatenate([near[scores >= least_score], far])
    if len(ids) == 1:
        return int(ids[0])
    return _winner(logits, ids, hash_bits(key, ids.astype(np.uint64)), temperature)


def _ids_with_hashes_from(key: int, least: np.uint64, num_ids: int) -> npt.NDArray[np.int64]:
    """Returns the ids below num_ids whose hashes are at least `least`, in ascending order."""
    found = []
    for start in range(0, num_ids, _BLOCK):
        ids = np.arange(start, min(start + _BLOCK, num_ids), dtype=np.uint64)
        found.append(np.flatnonzero(hash_bits(key, ids) >= least) + start)
    return np.concatenate(found)


def _least_rough_score(scores: npt.NDArray[np.float64]) -> float:
    """Returns the least rough score with which a token can have the largest exact score.

    The error of a rough score is that of its noise, below 36 * 1e-10, and one rounding, below 2^-53
    of itself. If the token with the best rough score is not the true winner, the two rough scores
    differ by no more than the errors of both.
    """
    best = float(scores.max())
    return best - (_DOUBT + _RELATIVE_DOUBT * abs(best))


def _winner(
    logits: Logits, ids: npt.NDArray[np.int64], bits: npt.NDArray[np.uint64], temperature: float
) -> int:
    """Returns the id with the largest logit / T + noise, the lowest of equal ones.

    bits: The hashes of the ids. numpy's logarithms find the ids that can win. This is a single one
    except in some of 10^8 samples. Only then the portable logarithms decide.
    """
    scaled = logits[ids].astype(np.float64) / temperature
    rough = scaled + rough_gumbel_of_bits(bits)
    places = np.flatnonzero(rough >= _least_rough_score(rough))
    if len(places) == 1:
        return int(ids[places[0]])
    scores = scaled[places] + gumbel_of_bits(bits[places])
    return int(ids[places[scores == scores.max()]].min())


def sample(logits: Logits, sampling: Sampling, position: int) -> int:
    """Sample the token of one position by law 1; returns its id.

    logits: (num_vocab,) float32, to which the stream's rules have been applied, if it has any.
    position: The absolute index of the token in prompt + output. Raises StreamError if the logits
    are not finite.
    """
    best_id = int(logits.argmax())
    best_logit = float(logits[best_id])
    if not math.isfinite(best_logit):
        raise StreamError("the engine computed logits that are not numbers: check the model file")
    if sampling.temperature == 0.0:
        return best_id
    cuts_off = 0 < sampling.top_k < len(logits)
    if not cuts_off and sampling.top_p >= 1.0 and sampling.min_p == 0.0:
        return _noisy_argmax(logits, best_logit, sampling, position)
    ids = _kept_ids(logits, best_logit, sampling)
    key = position_key(sampling.seed, sampling.choice, position)
    return _winner(logits, ids, hash_bits(key, ids.astype(np.uint64)), sampling.temperature)


def ranking(logits: Logits, sampling: Sampling, position: int, num: int) -> list[int]:
    """Returns the tokens that sample() would choose if the better ones did not exist, best first.

    It looks at the largest logits only, and leaves top-p and min-p out, because guesses may be
    wrong.
    """
    ids = top_k_ids(logits, num if sampling.temperature == 0.0 else _TOP_BLOCK)
    if sampling.temperature > 0.0:
        ids = ids[: sampling.top_k or None]
        key = position_key(sampling.seed, sampling.choice, position)
        scores = logits[ids].astype(np.float64) / sampling.temperature
        scores += rough_gumbel_of_bits(hash_bits(key, ids.astype(np.uint64)))
        ids = ids[np.argsort(-scores, kind="stable")]
    return [int(token_id) for token_id in ids[:num] if logits[token_id] > -np.inf]


def probability(logits: Logits, token_id: int) -> float:
    """Returns the model's own probability of a token: the softmax of (num_vocab,) logits."""
    best = logits.max()
    return float(np.exp(logits[token_id] - best)) / _rough_sum(logits, best, 1.0)
