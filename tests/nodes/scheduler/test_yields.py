"""What plans yield of what they promise, with guesses and without."""

from dataclasses import replace

import pytest

from nodes.scheduler.yields import Yields
from policies.plan import Batch, Plan, Prediction


def plan(tokens_per_s: float, *, guesses: bool, ahead_gain: float = 0.0) -> Plan:
    batches = (Batch((1,), (4,)),) if guesses else ()
    made = Prediction(0.1, "target", 0.1, tokens_per_s, (), ahead_gain)
    return Plan(batches=batches, plain=() if guesses else (1,), prediction=made)


# Guesses are believed to yield less than plain decoding until they are seen.
UNSEEN = 1.01


def slowness(yields: Yields) -> float:
    """Of the guesses of `plan` beside plain decoding."""
    return yields.slowness.one


def run(yields: Yields, of: Plan, tokens_per_s: float, since: float, seconds: float) -> float:
    """Commits ten times a second; when that ends."""
    steps = round(seconds * 10)
    for step in range(1, steps + 1):
        yields.committed(round(tokens_per_s / 10), of, since + step / 10)
    return since + seconds


def test_guesses_that_yield_less_than_they_promise_overrun() -> None:
    yields = Yields()
    assert slowness(yields) == pytest.approx(UNSEEN)
    now = run(yields, plan(400.0, guesses=False), 400.0, 0.0, 20.0)
    assert slowness(yields) == pytest.approx(UNSEEN)
    run(yields, plan(500.0, guesses=True), 400.0, now, 30.0)
    # Of 1.25 seconds for each promised one, three that are believed in beforehand hide a fifth.
    assert slowness(yields) == pytest.approx(1.2, abs=0.02)


def test_what_slows_plain_decoding_as_much_is_no_overrun() -> None:
    yields = Yields()
    now = run(yields, plan(400.0, guesses=False), 300.0, 0.0, 20.0)
    run(yields, plan(500.0, guesses=True), 375.0, now, 20.0)
    assert 0.97 < slowness(yields) < 1.05


def test_guesses_that_yield_more_are_wanted_for_less_but_not_much_less() -> None:
    yields = Yields()
    run(yields, plan(400.0, guesses=True), 420.0, 0.0, 20.0)
    assert 0.95 < slowness(yields) < 0.97
    run(yields, plan(400.0, guesses=True), 800.0, 20.0, 20.0)
    assert slowness(yields) == 0.9


def crowded(tokens_per_s: float, num_plain: int = 0) -> Plan:
    made = Prediction(0.1, "target", 0.1, tokens_per_s)
    batches = tuple(Batch((number,), (4,)) for number in range(3))
    return Plan(batches=batches, plain=tuple(range(9, 9 + num_plain)), prediction=made)


def test_each_kind_of_plan_has_yields_of_its_own() -> None:
    yields = Yields()
    now = run(yields, plan(400.0, guesses=False), 400.0, 0.0, 10.0)
    before = yields.slowness
    now = run(yields, crowded(500.0), 400.0, now, 20.0)
    found = yields.slowness
    assert (found.one, found.mixed) == pytest.approx((before.one, before.mixed), abs=0.01)
    assert before.crowded < 1.1 < 1.15 < found.crowded
    mixed = replace(plan(400.0, guesses=True), plain=(7,))
    run(yields, mixed, 420.0, now, 20.0)
    assert yields.slowness.mixed < 1.0 < 1.1 < yields.slowness.crowded
    # Where more than two batches go round it is they that make the difference.
    assert crowded(500.0, num_plain=3).kind is crowded(500.0).kind


def test_what_is_made_ahead_was_promised_too() -> None:
    yields = Yields()
    run(yields, plan(400.0, guesses=True, ahead_gain=0.2), 500.0, 0.0, 20.0)
    assert slowness(yields) == pytest.approx(1.0, abs=0.01)
    run(yields, plan(400.0, guesses=True, ahead_gain=0.2), 400.0, 20.0, 30.0)
    assert slowness(yields) > 1.12


def test_time_in_which_nobody_wants_tokens_tells_nothing() -> None:
    yields = Yields()
    made = plan(400.0, guesses=True)
    for second in range(30):
        run(yields, made, 400.0, 100.0 * second, 2.0)
        yields.pause()
    assert slowness(yields) == pytest.approx(1.0, abs=0.02)


def test_it_is_forgotten_while_nobody_guesses() -> None:
    yields = Yields()
    now = run(yields, plan(500.0, guesses=True), 350.0, 0.0, 20.0)
    before = slowness(yields)
    run(yields, plan(400.0, guesses=False), 400.0, now, 150.0)
    assert before > 1.2
    assert slowness(yields) < 1.05


def test_one_that_has_just_begun_is_not_judged() -> None:
    yields = Yields()
    now = run(yields, plan(400.0, guesses=False), 400.0, 0.0, 5.0)
    # Two cycles of 0.1 s in which streams run out what they had.
    run(yields, plan(500.0, guesses=True), 0.0, now, 0.2)
    assert slowness(yields) == pytest.approx(UNSEEN)


def test_one_that_few_follow_yet_is_not_judged_for_some_seconds() -> None:
    yields, made = Yields(), plan(500.0, guesses=True)
    now = run(yields, plan(400.0, guesses=False), 400.0, 0.0, 5.0)
    for step in range(1, 40):
        yields.committed(0, made, now + step / 10, is_followed=False)
    assert slowness(yields) == pytest.approx(UNSEEN)
    # If texts are told for longer than that, guesses cost it.
    for step in range(40, 100):
        yields.committed(0, made, now + step / 10, is_followed=False)
    assert slowness(yields) > 1.3


def test_no_promise_is_no_reason_to_divide() -> None:
    yields = Yields()
    for now in (1.0, 2.0):
        yields.committed(5, Plan(), now)
        yields.committed(5, plan(0.0, guesses=True), now)
    assert slowness(yields) == pytest.approx(UNSEEN)


def test_it_is_forgotten_while_there_is_nothing_to_do() -> None:
    yields = Yields()
    made = plan(500.0, guesses=True)
    now = run(yields, made, 350.0, 0.0, 20.0)
    assert slowness(yields) > 1.2
    yields.pause()
    yields.committed(1, made, now + 150.0)
    assert slowness(yields) < 1.05


def test_stalls_are_laps_too() -> None:
    yields = Yields()
    made, now = plan(400.0, guesses=True), 0.0
    for _ in range(30):
        # Every other pass comes half a second later than it was to.
        now = run(yields, made, 400.0, now, 0.1)
        yields.committed(40, made, now + 0.6)
        now += 0.6
    assert slowness(yields) > 1.3


def test_what_was_seen_fades_while_nothing_is_judged() -> None:
    yields = Yields()
    now = run(yields, plan(500.0, guesses=True), 300.0, 0.0, 20.0)
    before = slowness(yields)
    for second in range(1, 181):
        yields.pause(now + second)
    assert before > 1.2
    assert slowness(yields) < 1.05


def test_a_pause_is_no_change_of_plans() -> None:
    """Guesses that few can make are judged, though prompts are read now and then."""
    yields, made = Yields(), plan(500.0, guesses=True)
    now = run(yields, plan(400.0, guesses=False), 400.0, 0.0, 5.0)
    for step in range(1, 600):
        if step % 30 == 0:
            yields.pause(now + step / 10)
        else:
            yields.committed(0, made, now + step / 10, is_followed=False)
    assert slowness(yields) > 1.3


def test_what_one_batch_yields_says_nothing_of_two() -> None:
    """A pass in the way costs one batch all of its lap's streams, two only half of them each."""
    yields = Yields()
    one = plan(100.0, guesses=True)
    for step in range(300):
        yields.committed(9, one, 0.1 * step)
    found = yields.slowness
    assert found.one > 1.08
    assert found.two == pytest.approx(1.02, abs=0.005)
    two = replace(one, batches=(Batch((1,), (4,)), Batch((2,), (4,))))
    for step in range(300, 600):
        yields.committed(10, two, 0.1 * step)
    assert yields.slowness.two < 1.01 < 1.02 < yields.slowness.one
