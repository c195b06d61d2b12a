"""Figures of runs, against cases that can be counted by hand."""

import math

import pytest

from bench.load.figures import Asked, Slo, delays, figures_of, joint_rate

SLO = Slo(first_token_s=1.0, each_token_s=0.5)


def test_quantiles_are_values_that_were_seen():
    found = delays("answer", [float(k) for k in range(1, 101)])
    assert found == {"answer p50": 50.0, "answer p95": 95.0, "answer p99": 99.0}
    assert delays("answer", [3.0])["answer p99"] == 3.0
    assert math.isnan(delays("answer", [])["answer p50"])


def test_rates_count_what_came_in_the_time_that_it_took():
    requests = [Asked(0.0, (1.0, 2.0, 3.0)), Asked(0.5, (1.5, 2.5, 4.5))]
    made = figures_of(requests, SLO, cpu_s=3.0)
    assert made.seconds == 4.5
    assert made.metrics["tokens/s"] == pytest.approx(6 / 4.5)
    # From 1.5, when both had begun, to 3.0, when the first had ended: 2.0, 2.5, 3.0.
    assert made.metrics["decode tokens/s"] == pytest.approx(3 / 1.5)
    assert made.metrics["first token p50"] == 1.0
    assert made.metrics["time a token p50"] == 1.0
    assert made.metrics["processor time a token"] == 0.5


def test_goodput_counts_requests_that_were_good_enough():
    fast, late, slow = (0.5, 0.9, 1.3), (1.5, 1.6, 1.7), (0.5, 1.5, 2.5)
    failed = Asked(0.0, fast, "reset")
    requests = [Asked(0.0, fast), Asked(0.0, late), Asked(0.0, slow), failed, Asked(0.0)]
    made = figures_of(requests, SLO)
    assert made.num_failed == 1
    assert made.metrics["goodput"] == pytest.approx(1 / 2.5)


def test_requests_that_never_ran_together_have_no_common_rate():
    requests = [Asked(0.0, (1.0, 2.0)), Asked(0.0, (3.0, 4.0))]
    assert figures_of(requests, SLO).metrics["decode tokens/s"] == 0.0
    # The first one has ended, so that the second one alone counts.
    assert joint_rate([(1.0, 2.0), (3.0, 4.0, 4.5)], ends_early=True) == pytest.approx(2 / 1.5)
    # A stream of two tokens does not count, and two of the other's are skipped.
    assert joint_rate([(1.0, 2.0), (0.5, 1.5, 4.0)], 2) == pytest.approx(1 / 2.5)


def test_nothing_but_failures_is_told_as_such():
    made = figures_of([Asked(1.0, (), "refused")], SLO)
    assert (made.num_failed, made.metrics["tokens/s"]) == (1, 0.0)
