"""How many deaths of targets prove that a request is their cause."""

from __future__ import annotations

import random

import pytest

from nodes.coordinator.placing.suspects import DAY_S, MOST_LOSSES, Deaths, Suspicion, is_chance


@pytest.fixture
def deaths() -> Deaths:
    deaths = Deaths()
    deaths.begin(0.0)
    return deaths


def num_wanted(each_dies_every_s: float, exposed_s: float) -> int:
    """How many targets die of a stream, each this long after it got the stream, before it ends."""
    is_proven = [not is_chance([exposed_s] * num, 1 / each_dies_every_s) for num in range(20)]
    return 1 + is_proven.index(True)


def test_where_nodes_die_by_themselves_more_deaths_are_wanted() -> None:
    # Where nodes die once a day the second death is proof, also of a text that takes a minute.
    assert num_wanted(DAY_S, 0.01) == num_wanted(DAY_S, 60.0) == 2
    wanted = [num_wanted(each_s, 0.1) for each_s in (3600.0, 60.0, 10.0, 2.0)]
    assert wanted == sorted(set(wanted))
    assert num_wanted(DAY_S, 300.0) > 2
    # Where they die faster than they read, nothing is proven.
    assert all(is_chance([2.0] * num, 1.0) for num in range(30))


@pytest.mark.parametrize("mean_s", [0.5, 5.0, 60.0, 3600.0])
def test_innocents_are_hardly_ever_accused(mean_s: float) -> None:
    """Simulated: targets die at random, one suspect at a time is exposed for 50 ms on each."""
    chance = random.Random(round(mean_s * 10))
    rate_hz, exposed_s = 1 / mean_s, 0.05
    wrong = 0
    for _ in range(200_000):
        exposures = list[float]()
        # From one exposure to the next, as long as each ends with a death.
        while chance.random() < rate_hz * exposed_s:
            exposures.append(exposed_s)
            if not is_chance(exposures, rate_hz):
                wrong += 1
                break
    # First deaths of so many days of a target, of which one in a thousand may accuse wrongly.
    days = 200_000 * mean_s / DAY_S
    assert wrong <= 3 + days / 1000 * 3


def test_the_rate_is_that_of_others_and_of_the_worst_of_late(deaths: Deaths) -> None:
    """Deaths under the suspect itself say nothing of how often others die."""
    own = [5000.0, 5010.0, 5020.0]
    for at in (*own, 5048.0, 5057.0, 5058.0):
        before = deaths.rate_hz(own, 1, at)
        deaths.note(at)
        assert (deaths.rate_hz(own, 1, at) > before) == (at not in own)
    # Two within 3 s are the worst; the time over which they count grows.
    rates = [deaths.rate_hz(own, 1, at) for at in (5060.0, 5600.0, 15_000.0)]
    assert rates[0] == pytest.approx(2 / 3)
    assert rates == sorted(rates, reverse=True)
    # Before any target nothing is known.
    assert Deaths().rate_hz([], 1, 50.0) == 100.0


def test_what_dies_at_the_same_time_has_a_cause_of_its_own(deaths: Deaths) -> None:
    for at in (DAY_S, DAY_S + 1, DAY_S + 1):
        deaths.note(at)
    assert deaths.rate_hz([DAY_S, DAY_S + 1], 2, DAY_S + 1) >= 50
    assert deaths.rate_hz([DAY_S, DAY_S + 1, DAY_S + 1], 2, DAY_S + 1) == 1 / DAY_S


def test_a_stream_that_never_gets_a_token_is_not_tried_for_ever() -> None:
    suspicion = Suspicion(["a"], [0.0])
    for _ in range(MOST_LOSSES - 2):
        suspicion.lost("b", 9.0, 1.0, is_alone=False)
        assert suspicion.verdict(1.0) is None
    suspicion.lost("b", 9.0, 1.0, is_alone=False)
    code, line = suspicion.verdict(1.0) or ("", "")
    assert (code, line.split()[0]) == ("unavailable", str(MOST_LOSSES))
