"""Law 1: samples follow the target's distribution, and every shortcut equals the full computation.

Seeds are fixed, so the statistical tests always give the same verdict.
"""

import math
from collections import Counter
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from airdraft.nodes.engine.noise import drawn_ids, gumbel_noise, gumbel_of_bits
from airdraft.nodes.engine.portable_math import power_of_half
from airdraft.nodes.engine.protocol import EngineError
from airdraft.nodes.engine.sampling import Sampling, probability, sample, top_k_ids
from tests.engine.plain_law1 import kept_by_top_p, plain_hash, plain_log, plain_noise, plain_steps


def make_logits(seed, num_vocab, scale=2.0, *, ties=False):
    logits = np.random.default_rng(seed).normal(0.0, scale, num_vocab)
    return (np.round(logits) if ties else logits).astype(np.float32)


@st.composite
def logits_rows(draw, max_vocab=2500):
    """Flat and peaked, with and without ties; sizes around the block of 64 and beyond 1024."""
    sizes = st.one_of(st.integers(1, 200), st.sampled_from([511, 1024, 1025]))
    num_vocab = draw(sizes | st.integers(1, max_vocab))
    scale = draw(st.sampled_from([0.0, 1e-3, 0.5, 3.0, 30.0]))
    row = make_logits(draw(st.integers(0, 2**32)), num_vocab, scale, ties=draw(st.booleans()))
    for _ in range(draw(st.integers(0, 3))):
        row[draw(st.integers(0, num_vocab - 1))] += np.float32(draw(st.sampled_from([8, 9, 20])))
    return row


temperatures = st.sampled_from([1e-6, 0.05, 0.8, 1.0, 7.0, 100.0]) | st.floats(0.01, 3.0)
greedy = st.builds(Sampling, seed=st.integers(0, 2**63 - 1))
unfiltered = st.builds(
    Sampling,
    temperature=temperatures,
    seed=st.integers(0, 2**63 - 1),
    choice=st.integers(0, 2**32 - 1),
)
filtered = st.builds(
    replace,
    unfiltered,
    top_k=st.sampled_from([0, 0, 1, 5, 40, 1030, 10**6]),
    top_p=st.sampled_from([1.0, 1e-9, 0.3, 0.9, 0.95, 0.9999, 1.0 - 2.0**-53]),
    min_p=st.sampled_from([0.0, 0.0, 1e-9, 0.05, 0.5, 1.0]),
)
positions = st.integers(0, 2**31 - 1)


def sorted_ids(logits):
    return np.lexsort((np.arange(len(logits)), -logits))


def reference_kept(logits, sampling):
    """Top-k, top-p, min-p one after the other on a fully sorted vocabulary, in plain Python."""
    ids = sorted_ids(logits).tolist()
    best = float(logits[ids[0]])
    steps = [plain_steps(best - float(logit), sampling.temperature) for logit in logits]
    weights = power_of_half(np.array(steps)).tolist()
    if 0 < sampling.top_k < len(ids):
        ids = ids[: sampling.top_k]
    ids = kept_by_top_p(weights, ids, sampling)
    if sampling.min_p == 0.0:
        return ids
    most = -plain_log(sampling.min_p)
    return [i for i in ids if (best - float(logits[i])) / sampling.temperature <= most]


def reference_sample(logits, sampling, position):
    if sampling.temperature == 0.0:
        return min(i for i, logit in enumerate(logits) if logit == max(logits))
    noise = gumbel_noise(sampling.seed, sampling.choice, position, np.arange(len(logits)))
    scores = logits.astype(np.float64) / sampling.temperature + noise
    return max(sorted(reference_kept(logits, sampling)), key=lambda i: scores[i])


def probabilities(logits, sampling):
    """What the target's distribution is after the filters, (num_vocab,)."""
    kept = reference_kept(logits, sampling)
    scaled = logits[kept].astype(np.float64) / sampling.temperature
    result = np.zeros(len(logits))
    result[kept] = np.exp(scaled - scaled.max())
    return result / result.sum()


def chi_square_excess(counts, expected):
    """Pearson's statistic over its critical value at p = 1e-4; above 1 the fit is refused.

    Cells that expect fewer than 5 are merged. Critical value by Wilson and Hilferty 1931.
    """
    counts, expected = np.asarray(counts, dtype=float), np.asarray(expected, dtype=float)
    assert counts[expected == 0.0].sum() == 0, "a token that was filtered out was sampled"
    rare = expected < 5.0
    merged_counts, merged = counts[~rare], expected[~rare]
    if expected[rare].sum() > 0:
        merged_counts = np.append(merged_counts, counts[rare].sum())
        merged = np.append(merged, expected[rare].sum())
    freedom = len(merged) - 1
    assert freedom >= 1
    statistic = ((merged_counts - merged) ** 2 / merged).sum()
    z = NormalDist().inv_cdf(1.0 - 1e-4)
    critical = freedom * (1 - 2 / (9 * freedom) + z * math.sqrt(2 / (9 * freedom))) ** 3
    return statistic / critical


FILTERS = [
    pytest.param({}, id="no filter"),
    pytest.param({"top_k": 7}, id="top-k"),
    pytest.param({"top_p": 0.8}, id="top-p"),
    pytest.param({"min_p": 0.1}, id="min-p"),
    pytest.param({"top_k": 9, "top_p": 0.9, "min_p": 0.05}, id="all three"),
]


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize(("num_vocab", "temperature"), [(12, 1.0), (12, 1.5), (200, 0.7)])
@pytest.mark.parametrize("vary", ["position", "seed"])
def test_samples_follow_the_target(vary, num_vocab, temperature, filters):
    logits = make_logits(num_vocab, num_vocab)
    sampling = Sampling(temperature=temperature, seed=3, **filters)
    if vary == "position":
        drawn = [sample(logits, sampling, position) for position in range(8000)]
    else:
        drawn = [sample(logits, replace(sampling, seed=seed), 17) for seed in range(8000)]
    counts = np.bincount(drawn, minlength=num_vocab)
    assert chi_square_excess(counts, 8000 * probabilities(logits, sampling)) < 1.0


@pytest.mark.parametrize(
    "vary",
    [
        pytest.param(lambda i: ((5, 0, i), (5, 1, i)), id="choices"),
        pytest.param(lambda i: ((5, 0, 2 * i), (5, 0, 2 * i + 1)), id="neighbouring positions"),
        pytest.param(lambda i: ((2 * i, 0, 9), (2 * i + 1, 0, 9)), id="neighbouring seeds"),
        pytest.param(lambda i: ((i, 1, 9), (i + 1, 0, 9)), id="seed against choice"),
    ],
)
def test_noise_of_different_streams_is_independent(vary):
    """Of two streams that are uniform over 8 tokens each of 64 pairs is as frequent."""

    def drawn(seed, choice, position):
        sampling = Sampling(temperature=1.0, seed=seed, choice=choice)
        return sample(np.zeros(8, dtype=np.float32), sampling, position)

    counts = Counter(tuple(drawn(*of) for of in vary(index)) for index in range(8000))
    table = [counts[a, b] for a in range(8) for b in range(8)]
    assert chi_square_excess(table, [8000 / 64] * 64) < 1.0


@given(logits_rows(), unfiltered | filtered | greedy, positions)
@settings(max_examples=400)
def test_sample_equals_the_full_computation(logits, sampling, position):
    chosen = sample(logits, sampling, position)
    assert chosen == reference_sample(logits, sampling, position)
    assert chosen == sample(logits.copy(), sampling, position)


@pytest.mark.parametrize("ties", [False, True])
def test_top_p_may_leave_thousands_of_tokens(ties):
    logits = make_logits(4, 6000, 0.05, ties=ties)
    sampling = Sampling(temperature=0.9, top_p=0.9)
    assert len(reference_kept(logits, sampling)) > 4000
    for position in range(20):
        assert sample(logits, sampling, position) == reference_sample(logits, sampling, position)


@given(
    st.integers(0, 2**40),
    positions,
    st.integers(-3, 3),
    st.sampled_from([{}, {"top_k": 2}, {"top_p": 1.0 - 1e-9}, {"min_p": 1e-9}]),
)
@settings(max_examples=200, deadline=None)
def test_the_portable_noise_decides_between_scores_that_are_nearly_equal(
    seed, position, steps, filters
):
    """Two tokens whose scores differ by some units in the last place, if at all."""
    ids = [7, 50]
    low, high = sorted(ids, key=lambda i: plain_noise(seed, 0, position, i))
    gap = plain_noise(seed, 0, position, high) - plain_noise(seed, 0, position, low)
    temperature = 1.0 / gap
    assume(0.01 < temperature < 100.0)
    for _ in range(abs(steps)):
        temperature = math.nextafter(temperature, math.copysign(math.inf, steps))
    logits = np.full(100, -1000.0 * temperature, dtype=np.float32)
    logits[high], logits[low] = 0.0, 1.0
    chosen = sample(logits, Sampling(temperature=temperature, seed=seed, **filters), position)
    scores = {i: float(logits[i]) / temperature + plain_noise(seed, 0, position, i) for i in ids}
    assert chosen == max(ids, key=scores.__getitem__)


def test_winners_are_found_however_far_below_the_best():
    """One token 9 above 20,000 others: nine nats are more than the shortcut looks at first."""
    logits = np.zeros(20_000, dtype=np.float32)
    logits[4321] = 9.0
    sampling = Sampling(temperature=1.0, seed=2)
    far = 0
    for position in range(60):
        noise = gumbel_noise(2, 0, position, np.arange(len(logits)))
        chosen = sample(logits, sampling, position)
        assert chosen == int((logits + noise).argmax())
        far += chosen != 4321
    assert 0 < far < 60


@given(logits_rows(), st.integers(1, 2600))
@settings(max_examples=150)
def test_top_k_equals_a_full_sort_with_ties(logits, k):
    assert top_k_ids(logits, k).tolist() == sorted_ids(logits)[:k].tolist()


def test_top_k_takes_positive_and_negative_zero_as_equal():
    logits = np.array([-0.0, 0.0, -1.0, 0.0] * 40, dtype=np.float32)
    expected = [i for i in range(160) if i % 4 != 2]
    assert top_k_ids(logits, 2).tolist() == expected[:2]
    assert top_k_ids(logits, 100).tolist() == expected[:100]


def sampled(logits, temperature=1.0, **filters):
    """Tokens of a few likely ones that remain after filters: each is sampled sooner or later."""
    sampling = Sampling(temperature=temperature, **filters)
    return {sample(logits, sampling, position) for position in range(400)}


def test_the_share_of_top_p_is_of_exact_sums_and_of_equals_the_lowest_ids_come_first():
    """A float64 of tenths is a little more or less than they are: n tenths of ten stay n."""
    equal = np.zeros(10, dtype=np.float32)
    for tenths in range(1, 10):
        assert sampled(equal, top_p=tenths / 10) == set(range(tenths))
        assert sampled(equal, top_p=tenths / 10 + 1e-9) == set(range(tenths + 1))
    # Of two that top-k leaves, 0.4 takes one; of ten, it would take four.
    assert sampled(equal, top_k=2, top_p=0.4) == {0}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_top_p_counts_thousands_of_unlikely_tokens_as_well(temperature):
    """Ten tokens have 0.07 each. The sum of seven of them is below one half of all."""
    weights = np.array([0.07] * 10 + [0.3 / 20_000] * 20_000)
    logits = (temperature * np.log(weights)).astype(np.float32)
    assert sampled(logits, temperature=temperature, top_p=0.5) == set(range(8))


def test_the_probability_of_a_token_is_that_of_the_softmax():
    logits = make_logits(3, 40_000)
    expected = probabilities(logits, Sampling(temperature=1.0))
    for token_id in (0, int(logits.argmax()), 39_999):
        assert probability(logits, token_id) == pytest.approx(expected[token_id], rel=1e-5)


@given(
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**32 - 1),
    positions,
    st.lists(st.integers(0, 2**31), min_size=1, max_size=8),
)
def test_noise_is_splitmix64_of_seed_choice_position_and_token(seed, choice, position, token_ids):
    noise = gumbel_noise(seed, choice, position, token_ids)
    assert noise.tolist() == [plain_noise(seed, choice, position, i) for i in token_ids]


def test_drawn_ids_are_hashes_of_the_seed():
    for seed in (0, 24, 2**64 - 1):
        expected = [plain_hash(seed, index) % 49_152 for index in range(40)]
        assert drawn_ids(seed, 40, 49_152) == expected


def test_noise_is_finite_at_both_ends_of_the_hash():
    noise = gumbel_of_bits(np.array([0, 2**52 - 1], dtype=np.uint64))
    assert np.isfinite(noise).all()
    assert noise[0] < -3.5
    assert noise[1] > 36.0


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("temperature", (-0.1, 100.5, math.nan, 1e-310)),
        ("top_k", (-1,)),
        ("top_p", (0.0, 1.1, math.nan)),
        ("min_p", (-0.1, 1.5)),
        ("seed", (-1, 1 << 63)),
        ("choice", (-1, 1 << 32)),
    ],
)
def test_values_out_of_range_are_refused_by_name(name, wrong):
    for value in wrong:
        with pytest.raises(ValueError, match=name):
            Sampling(**{name: value})


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("best", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_an_error_of_the_engine(temperature, best):
    logits = make_logits(1, 100)
    logits[7] = best
    with pytest.raises(EngineError, match="not numbers"):
        sample(logits, Sampling(temperature=temperature), 3)


def test_tokens_that_a_grammar_takes_out_are_never_sampled():
    logits = np.full(2000, -np.inf, dtype=np.float32)
    logits[[5, 1500]] = -30.0
    for filters in ({}, {"top_k": 7}, {"top_p": 0.8}, {"min_p": 0.1}):
        sampling = Sampling(temperature=0.9, seed=4, **filters)
        assert {sample(logits, sampling, position) for position in range(20)} == {5, 1500}
