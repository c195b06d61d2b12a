"""Bands of an OFDMA cell against nested root finding on the rate itself, and in 60 digits."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from bench.paper.ofdma import ofdma_bands, ofdma_rate_bps, uniform_band_time_s
from policies.airtime import DeadLinkError

# (bits, c as a multiple of 1 MHz): from far below the noise to 90 dB above it.
LINKS = st.lists(
    st.tuples(st.floats(1.0, 1e8), st.floats(-6.0, 9.0).map(lambda decades: 10**decades)),
    min_size=1,
    max_size=6,
)
BAND_HZ = 1e6


def unzip(links):
    return [bits for bits, _ in links], [BAND_HZ * ratio for _, ratio in links]


def rate(band_hz, snr_hz):
    return band_hz * math.log1p(snr_hz / band_hz) / math.log(2)


def band_for(rate_bps, snr_hz, most_hz):
    """The band that gives the rate, by Brent's method in log(b); log2(1 + c/b) is below 1100."""
    least_hz = rate_bps / 1100
    if rate(most_hz, snr_hz) <= rate_bps:
        return most_hz
    log_band = brentq(
        lambda log_hz: rate(math.exp(log_hz), snr_hz) / rate_bps - 1.0,
        math.log(least_hz),
        math.log(most_hz),
        xtol=1e-14,
    )
    return math.exp(log_band)


def search(bits, snr_hz, bandwidth_hz):
    """Finish and bands by Brent's method around Brent's method."""

    def bands(finish_s):
        return [
            band_for(size / finish_s, snr, bandwidth_hz)
            for size, snr in zip(bits, snr_hz, strict=True)
        ]

    alone_s = [size / rate(bandwidth_hz, snr) for size, snr in zip(bits, snr_hz, strict=True)]
    finish_s = brentq(
        lambda t: sum(bands(t)) / bandwidth_hz - 1.0,
        max(alone_s) * (1 - 1e-15),
        sum(alone_s) * (1 + 1e-12),
        xtol=max(alone_s) * 1e-15,
    )
    return finish_s, bands(finish_s)


@pytest.mark.parametrize(
    ("seed", "decades"),
    [(1, (-1.0, 3.0)), (2, (-4.0, -2.0)), (3, (5.0, 10.0)), (4, (-4.0, 10.0))],
    ids=["usual", "band to spare", "strong", "mixed"],
)
def test_bands_finish_as_soon_as_nested_root_finding_says(seed, decades):
    rng = np.random.default_rng(seed)
    for _ in range(250):
        num_links = rng.integers(2, 6)
        bandwidth_hz = 10 ** rng.uniform(4, 8)
        snr = bandwidth_hz * 10 ** rng.uniform(*decades, num_links)
        bits = 10 ** rng.uniform(1, 7, num_links)
        finish_s, bands = search(bits, snr, bandwidth_hz)
        found, found_s = ofdma_bands(bits, snr, bandwidth_hz)
        assert found_s == pytest.approx(finish_s, rel=1e-6)
        assert found == pytest.approx(bands, rel=1e-6)


@pytest.mark.parametrize(
    ("bits", "snr_hz"),
    [
        ([1.0] * 3, [1e-12] * 3),
        ([1.0, 2.0, 4.0], [1e-9, 2e-9, 4e-9]),
        ([1.0, 3.0, 1e6], [1e-13, 1e-3, 1e9]),
        ([1e9, 1.0], [1e15, 1e15]),
        ([1.0, 1e9], [1e-6, 1e15]),
        ([1.0, 1.0, 1.0], [0.0099, 0.01, 0.0101]),
        ([1.0, 1.99], [0.005, 0.01]),
        ([1.0] * 40, [1e3] * 39 + [1e-4]),
        ([7.0], [1e-15]),
        ([7.0], [1e15]),
    ],
)
def test_bands_have_twelve_digits_from_far_below_the_noise_to_far_above(bits, snr_hz):
    """One finish lies, for every link, between those of 1e-12 more and less of its band."""
    bands, finish_s = ofdma_bands(bits, snr_hz, 1.0)
    assert bands.sum() == pytest.approx(1.0, abs=1e-12)
    with localcontext(prec=60):

        def exact_finish(size, snr, band, change):
            b = Decimal(float(band)) * (1 + change)
            return Decimal(size) * Decimal(2).ln() / (b * (1 + Decimal(snr) / b).ln())

        links = list(zip(bits, snr_hz, bands, strict=True))
        with_more = max(exact_finish(*link, Decimal("1e-12")) for link in links)
        with_less = min(exact_finish(*link, Decimal("-1e-12")) for link in links)
        assert with_more <= with_less
        assert finish_s == pytest.approx(float(with_more), rel=1e-12)


@given(LINKS, st.data())
def test_no_other_split_of_the_band_finishes_sooner(links, data):
    bits, snr = unzip(links)
    bands, finish_s = ofdma_bands(bits, snr, BAND_HZ)
    assert np.all(bands > 0.0)
    assert bands.sum() == pytest.approx(BAND_HZ, rel=1e-12)
    times = [size / rate(band, c) for size, c, band in zip(bits, snr, bands, strict=True)]
    assert times == pytest.approx([finish_s] * len(links), rel=1e-9)
    changes = data.draw(st.lists(st.floats(0.5, 2.0), min_size=len(links), max_size=len(links)))
    other = bands * changes
    other *= BAND_HZ / other.sum()
    rivals = [size / rate(band, c) for size, c, band in zip(bits, snr, other, strict=True)]
    assert max(rivals) >= finish_s * (1 - 1e-9)


@given(LINKS, st.floats(1.0, 1e3), st.data())
def test_more_band_or_fewer_bits_never_finish_later(links, factor, data):
    bits, snr = unzip(links)
    _, finish_s = ofdma_bands(bits, snr, BAND_HZ)
    assert ofdma_bands(bits, snr, BAND_HZ * factor)[1] <= finish_s * (1 + 1e-12)
    index = data.draw(st.integers(0, len(bits) - 1))
    bits[index] /= factor
    assert ofdma_bands(bits, snr, BAND_HZ)[1] <= finish_s * (1 + 1e-12)


@given(LINKS)
def test_equal_bands_finish_no_sooner_and_are_the_same_for_equal_links(links):
    bits, snr = unzip(links)
    slowest_s = max(size / rate(BAND_HZ / len(links), c) for size, c in zip(bits, snr, strict=True))
    uniform_s = uniform_band_time_s(bits, snr, BAND_HZ)
    assert uniform_s == pytest.approx(slowest_s)
    assert ofdma_bands(bits, snr, BAND_HZ)[1] <= uniform_s * (1 + 1e-12)
    twins = [bits[0]] * len(bits), [snr[0]] * len(bits)
    bands, finish_s = ofdma_bands(*twins, BAND_HZ)
    assert bands == pytest.approx([BAND_HZ / len(bits)] * len(bits))
    assert finish_s == pytest.approx(uniform_band_time_s(*twins, BAND_HZ))


def test_a_link_with_nothing_to_send_gets_no_band():
    bands, finish_s = ofdma_bands([0.0, 8e3], [1e6, 1e6], 1e6)
    assert bands == pytest.approx([0.0, 1e6])
    assert finish_s == pytest.approx(8e-3)
    assert ofdma_bands([0.0], [1e6], 1e6)[1] == 0.0
    assert ofdma_bands([], [], 1e6)[0].size == 0
    assert uniform_band_time_s([], [], 1e6) == 0.0
    assert uniform_band_time_s([0.0, 0.0], [1e6, 1e6], 1e6) == 0.0


@pytest.mark.parametrize(
    ("band_hz", "snr_hz", "rate_bps"),
    [
        (1.0, 1.0, 1.0),
        (1e6, 3e6, 2e6),
        (1e6, 1023e6, 10e6),
        (0.0, 1e6, 0.0),
        (1e6, 0.0, 0.0),
        (1.0, 2.0**300, 300.0),
        (1e-20, 1e-20 * 2.0**300, 3e-18),
        (1e18, 1.0, 1 / math.log(2)),
        (2.0**40, 2.0**10, 2.0**10 / math.log(2) * (1 - 2.0**-31)),
    ],
)
def test_the_rate_is_right_at_both_ends(band_hz, snr_hz, rate_bps):
    assert ofdma_rate_bps([band_hz], [snr_hz])[0] == pytest.approx(rate_bps, rel=1e-14)


def test_rates_of_many_links_come_at_once():
    assert ofdma_rate_bps([1.0, 2.0], 6.0) == pytest.approx([math.log2(7), 4.0])
    assert ofdma_rate_bps(2.0, [2.0, 6.0]) == pytest.approx([2.0, 4.0])


@pytest.mark.parametrize("call", [ofdma_bands, uniform_band_time_s])
@pytest.mark.parametrize(("snr", "shown"), [(0.0, "0"), (-1.0, "-1"), (math.nan, "nan")])
def test_a_link_that_gets_nothing_through_is_refused_by_name(call, snr, shown):
    with pytest.raises(DeadLinkError) as caught:
        call([8.0, 0.0], [1e6, snr], 1e6, ("nano-1", "nano-2"))
    assert str(caught.value) == (
        f"link nano-2 has a signal-to-noise density of {shown} Hz: nothing can be sent over it"
    )
    assert caught.value.link == "nano-2"


@pytest.mark.parametrize("call", [ofdma_bands, uniform_band_time_s])
@pytest.mark.parametrize("bandwidth_hz", [0.0, -1.0, math.nan, math.inf])
def test_a_cell_without_a_band_is_refused(call, bandwidth_hz):
    with pytest.raises(ValueError, match=r"^a cell cannot have a band of "):
        call([8.0], [1e6], bandwidth_hz)


@pytest.mark.parametrize(
    ("bits", "snr_hz", "reason"),
    [([math.nan], [1.0], "^bits"), ([-1.0], [1.0], "^bits"), ([1.0], [math.inf], "^snr_hz")],
)
def test_other_bad_values_are_refused(bits, snr_hz, reason):
    with pytest.raises(ValueError, match=reason):
        ofdma_bands(bits, snr_hz, 1e6)
