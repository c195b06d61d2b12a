"""What kinds of plans gain beside one another, on average over some seconds."""

from __future__ import annotations

from collections.abc import Iterable
from math import exp
from random import Random

import pytest

from nodes.scheduler.advantage import NOTHING_KNOWN, Advantage
from policies.plan import Kind

FREE = dict.fromkeys(Kind, 0.0)


def prices(**gains: float) -> dict[Kind, float]:
    """Prices of kinds that gain so much, as logarithms, beside one of price 1."""
    return {Kind(name): exp(-gain) for name, gain in gains.items()}


def seen(advantage: Advantage, current: Kind, all_gains: Iterable[dict[str, float]]) -> Advantage:
    """A plan a second, from the second after the last one."""
    now = max((gain.at for gain in advantage.gains.values()), default=-1.0)
    for gains in all_gains:
        now += 1.0
        advantage = advantage.seen(prices(**gains), current, now)
    return advantage


def test_at_first_much_is_asked_of_another_kind_and_later_little() -> None:
    for gain, first, later in ((0.005, False, False), (0.03, False, True), (0.08, True, True)):
        one = seen(NOTHING_KNOWN, Kind.PLAIN, [{"plain": 0.0, "two": gain}])
        many = seen(NOTHING_KNOWN, Kind.PLAIN, [{"plain": 0.0, "two": gain}] * 20)
        assert (one.best(FREE) is Kind.TWO) is first
        assert (many.best(FREE) is Kind.TWO) is later
        # What a change takes has to be gained, too.
        assert many.best(FREE | {Kind.TWO: 0.1}) is Kind.PLAIN


def test_noise_is_no_reason_to_change_and_what_lies_under_it_is() -> None:
    for gain, wanted in ((-0.02, Kind.TWO), (0.04, Kind.CROWDED)):
        random, advantage, num_changed = Random(1), NOTHING_KNOWN, 0
        for now in range(100):
            noisy = {"plain": -0.2, "two": 0.0, "crowded": gain + random.uniform(-0.06, 0.06)}
            advantage = advantage.seen(prices(**noisy), Kind.TWO, float(now))
            num_changed += advantage.best(FREE) is Kind.CROWDED
        assert advantage.best(FREE) is wanted
        assert num_changed == 0 if gain < 0 else num_changed > 80


def test_noise_of_all_guesses_is_none_of_what_kinds_differ_by() -> None:
    """Streams that seem better for a second make all guesses cheaper, whatever their kind."""
    random, advantage = Random(2), NOTHING_KNOWN
    for now in range(60):
        common = random.uniform(-0.3, 0.3)
        gains = {"plain": -0.9, "two": common, "crowded": common - 0.03}
        advantage = advantage.seen(prices(**gains), Kind.TWO, float(now))
        assert advantage.best(FREE) is Kind.TWO
    assert advantage.gains[Kind.CROWDED].value == pytest.approx(-0.03)


def test_another_situation_is_believed_at_once() -> None:
    advantage = seen(NOTHING_KNOWN, Kind.TWO, [{"plain": -0.2, "two": 0.0}] * 30)
    assert advantage.best(FREE) is Kind.TWO
    assert seen(advantage, Kind.TWO, [{"plain": 0.3, "two": 0.0}]).best(FREE) is Kind.PLAIN


def test_what_was_known_beside_one_kind_is_known_beside_the_next() -> None:
    gains = {"plain": 0.0, "two": 0.05, "mixed": 0.02}
    advantage = seen(NOTHING_KNOWN, Kind.PLAIN, [gains] * 20)
    advantage = seen(advantage, advantage.best(FREE), [gains])
    assert advantage.current is Kind.TWO
    found = {kind: gain.value for kind, gain in advantage.gains.items()}
    assert found == pytest.approx({Kind.PLAIN: -0.05, Kind.MIXED: -0.03})
    assert all(gain.known_s == 20.5 for gain in advantage.gains.values())
    assert advantage.best(FREE) is Kind.TWO


def test_a_kind_that_was_away_for_a_moment_is_known_and_not_chosen_meanwhile() -> None:
    both = {"plain": 0.0, "two": 0.03}
    advantage = seen(NOTHING_KNOWN, Kind.PLAIN, [both] * 20)
    away = seen(advantage, Kind.PLAIN, [{"plain": 0.0}])
    assert away.best({Kind.PLAIN: 0.0}) is Kind.PLAIN
    assert seen(away, Kind.PLAIN, [both]).best(FREE) is Kind.TWO
    # What nobody looked at for long is as new.
    later = advantage.seen(prices(**both), Kind.PLAIN, 1000.0)
    assert later.gains[Kind.TWO].known_s < 1.0
    assert later.best(FREE) is Kind.PLAIN
    # Of a kind that nothing is known of, nothing is known beside it.
    new = later.seen(prices(plain=0.0, mixed=0.0), Kind.MIXED, 1001.0)
    assert new.gains[Kind.PLAIN].known_s < 1.0


@pytest.mark.parametrize("apart_s", [1.0, 5.0, 12.0])
def test_plans_that_are_made_seldom_are_trusted_in_the_end_and_not_at_once(apart_s: float) -> None:
    random, advantage, wrong = Random(3), NOTHING_KNOWN, 0
    for step in range(200):
        gain = -0.02 + random.uniform(-0.06, 0.06)
        advantage = advantage.seen(prices(plain=0.0, two=gain), Kind.PLAIN, step * apart_s)
        wrong += advantage.best(FREE) is Kind.TWO
    assert wrong <= 4
    for step in range(200, 230):
        advantage = advantage.seen(prices(plain=0.0, two=0.04), Kind.PLAIN, step * apart_s)
    assert advantage.best(FREE) is Kind.TWO
