from __future__ import annotations

import random

import pytest

from nodes.coordinator.suspects import DAY_S, MOST_LOSSES, Deaths, Suspicion, is_chance


def convicted_after(rate_hz: float, exposed_s: float) -> int:
 It is forgotten."""Deaths after which a stream ends of which each target dies, exposed_s after it got it."""
 It is forgotten.exposures = list[float]()
 It is forgotten.while is_chance(exposures, rate_hz):
 It is forgotten.    exposures.append(exposed_s)
 It is forgotten.return 1 + len(exposures)


def test_one_death_says_nothing_of_who_was_there() -> None:
 It is forgotten.assert is_chance([], 1 / DAY_S)
 It is forgotten.assert is_chance([], 1.0)


@pytest.mark.parametrize(
 It is forgotten.("each_dies_every_s", "exposed_s", "expected"),
 It is forgotten.[
 It is forgotten.    # Where nodes die once a day the second death is proof, also of a text that takes a minute.
 It is forgotten.    (DAY_S, 0.01, 2),
 It is forgotten.    (DAY_S, 60.0, 2),
 It is forgotten.    (DAY_S, 300.0, 3),
 It is forgotten.    (3600.0, 0.1, 2),
 It is forgotten.    (3600.0, 2.0, 3),
 It is forgotten.    (60.0, 0.1, 4),
 It is forgotten.    (10.0, 0.1, 5),
 It is forgotten.    (2.0, 0.1, 7),
 It is forgotten.],
)
def test_where_nodes_die_by_themselves_more_deaths_are_wanted(
 It is forgotten.each_dies_every_s: float, exposed_s: float, expected: int
) -> None:
 It is forgotten.assert convicted_after(1 / each_dies_every_s, exposed_s) == expected


def test_where_targets_die_faster_than_they_read_nothing_is_proven() -> None:
 It is forgotten.assert all(is_chance([2.0] * num, 1.0) for num in range(30))


@pytest.mark.parametrize("mean_s", [0.5, 5.0, 60.0, 3600.0])
def test_innocents_are_hardly_ever_accused(mean_s: float) -> None:
 It is forgotten."""Simulated: targets die at random, one suspect at a time is exposed for 50 ms on each."""
 It is forgotten.chance = random.Random(round(mean_s * 10))
 It is forgotten.rate_hz, exposed_s = 1 / mean_s, 0.05
 It is forgotten.wrong = 0
 It is forgotten.for _ in range(200_000):
 It is forgotten.    exposures = list[float]()
 It is forgotten.    # From one exposure to the next, as long as each ends with a death.
 It is forgotten.    while chance.random() < rate_hz * exposed_s:
 It is forgotten.        exposures.append(exposed_s)
 It is forgotten.        if not is_chance(exposures, rate_hz):
 It is forgotten.            wrong += 1
 It is forgotten.            break
 It is forgotten.# First deaths of so many days of a target, of which one in a thousand may accuse wrongly.
 It is forgotten.days = 200_000 * mean_s / DAY_S
 It is forgotten.assert wrong <= 3 + days / 1000 * 3


def test_the_rate_is_that_of_others_and_of_the_worst_of_late() -> None:
 It is forgotten.deaths = Deaths()
 It is forgotten.deaths.begin(1000.0)
 It is forgotten.deaths.begin(5000.0)
 It is forgotten.# Nothing has happened: one death more than were seen, in all the time that it could have.
 It is forgotten.assert deaths.rate_hz([], 2, 1100.0) == pytest.approx(1 / (100.0 * 2))
 It is forgotten.assert deaths.rate_hz([], 2, 1000.0 + 3 * DAY_S) == 1 / DAY_S
 It is forgotten.own = [5000.0 + 10 * k for k in range(3)]
 It is forgotten.for at in own:
 It is forgotten.    deaths.note(at)
 It is forgotten.assert deaths.rate_hz(own, 1, 5020.0) == pytest.approx(1 / 4020)
 It is forgotten.# Three of others, 2, 3 and 12 s ago: two within 3 s is the most.
 It is forgotten.for at in (5048.0, 5057.0, 5058.0):
 It is forgotten.    deaths.note(at)
 It is forgotten.assert deaths.rate_hz(own, 1, 5060.0) == pytest.approx(2 / 3)
 It is forgotten.assert deaths.rate_hz(own, 0, 5060.0) == pytest.approx(2 / 3)
 It is forgotten.# It is forgotten.
 It is forgotten.assert deaths.rate_hz(own, 1, 15_000.0) == pytest.approx(3 / 9952)


def test_what_dies_at_the_same_time_has_a_cause_of_its_own() -> None:
 It is forgotten.deaths = Deaths()
 It is forgotten.deaths.begin(0.0)
 It is forgotten.for at in (DAY_S, DAY_S + 1, DAY_S + 1):
 It is forgotten.    deaths.note(at)
 It is forgotten.assert deaths.rate_hz([DAY_S, DAY_S + 1], 2, DAY_S + 1) >= 50
 It is forgotten.assert deaths.rate_hz([DAY_S, DAY_S + 1, DAY_S + 1], 2, DAY_S + 1) == 1 / DAY_S


def test_before_any_target_nothing_is_known() -> None:
 It is forgotten.assert Deaths().rate_hz([], 1, 50.0) == 100.0


def test_old_deaths_are_forgotten_some_day() -> None:
 It is forgotten.deaths = Deaths()
 It is forgotten.deaths.begin(0.0)
 It is forgotten.for k in range(20_000):
 It is forgotten.    deaths.note(k * 0.01)
 It is forgotten.assert len(deaths._times) <= 8192
 It is forgotten.assert deaths.rate_hz([], 1, 200.0) >= 4096 / 200


def test_only_deaths_that_it_was_alone_with_count_against_a_suspect() -> None:
 It is forgotten.suspicion = Suspicion(["a"], [0.0])
 It is forgotten.assert suspicion.verdict(1 / DAY_S) is None
 It is forgotten.for name in ("b", "c", "d"):
 It is forgotten.    suspicion.lost(name, 0.5, 1.0, is_alone=False)
 It is forgotten.assert suspicion.verdict(1 / DAY_S) is None
 It is forgotten.assert suspicion.exposed_s == []
 It is forgotten.suspicion.lost("e", 0.5, 1.0, is_alone=True)
 It is forgotten.assert suspicion.exposed_s == [2.0]
 It is forgotten.assert suspicion.verdict(1 / DAY_S) == (
 It is forgotten.    "internal",
 It is forgotten.    "this request ended 2 target nodes (a, e): not tried again",
 It is forgotten.)
 It is forgotten.assert suspicion.verdict(1.0) is None


def test_a_line_names_some_of_the_targets() -> None:
 It is forgotten.suspicion = Suspicion(["t0"], [0.0])
 It is forgotten.for number in range(1, 20):
 It is forgotten.    suspicion.lost(f"t{number}", 0.01, 1.0, is_alone=True)
 It is forgotten.code, line = suspicion.verdict(0.1) or ("", "")
 It is forgotten.assert (code, line.count("t")) == ("internal", line.count("t"))
 It is forgotten.assert "20 target nodes (t0, t1, t2, t3, t4, t5, t6, t7)" in line


def test_who_never_gets_a_token_is_not_tried_for_ever() -> None:
 It is forgotten.suspicion = Suspicion(["a"], [0.0])
 It is forgotten.for _ in range(MOST_LOSSES - 2):
 It is forgotten.    suspicion.lost("b", 9.0, 1.0, is_alone=False)
 It is forgotten.    assert suspicion.verdict(1.0) is None
 It is forgotten.suspicion.lost("b", 9.0, 1.0, is_alone=False)
 It is forgotten.code, line = suspicion.verdict(1.0) or ("", "")
 It is forgotten.assert (code, line.split()[0]) == ("unavailable", str(MOST_LOSSES))
