"""Where a stream may go that was on targets which were lost."""

from __future__ import annotations

from airdraft.nodes.coordinator.requests.suspects import RETURN_S, Suspicion

A, B = ("a", 1), ("b", 1)


def test_it_waits_for_its_target_and_then_goes_to_any_but_never_to_a_third_process() -> None:
    suspicion = Suspicion(A, [A], 10.0)
    just_before, then = 10.0 + RETURN_S - 0.01, 10.0 + RETURN_S
    assert [suspicion.may_go_to(name, just_before) for name in "ab"] == [True, False]
    assert [suspicion.may_go_to(name, then) for name in "ab"] == [True, True]
    twice = Suspicion(B, [A, B], 20.0)
    assert [twice.may_go_to(name, 1e9) for name in "abc"] == [False] * 3


def test_what_was_lost_after_a_token_waits_for_nothing() -> None:
    assert Suspicion(A).may_go_to("b", 0.0)


def test_a_process_that_lives_accuses_nobody() -> None:
    assert Suspicion(A).without(A) is None
    assert Suspicion(A, [A], 1.0).without(A) is None
    left = Suspicion(B, [A, B], 2.0).without(B)
    assert left is not None
    assert (left.accused_by, left.is_spent) == ([A], False)
    other = Suspicion(A, [A], 1.0)
    assert other.without(("a", 2)) is other


def test_only_a_new_process_of_the_last_target_confirms_that_it_died() -> None:
    twice = Suspicion(B, [A, B], 2.0)
    found = [twice.is_confirmed_by(each) for each in (("b", 2), B, ("a", 2), ("c", 1))]
    assert found == [True, False, False, False]
    assert not Suspicion(A, [A], 1.0).is_confirmed_by(("a", 2))
