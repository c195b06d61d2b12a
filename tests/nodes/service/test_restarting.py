"""When a node that ended is started again."""

from __future__ import annotations

import pytest

from nodes.service.restarting import DISMISSED, HEALTHY_S, MOST_FAILED_STARTS, WAITS_S, Restarts

KILLED = -9


def test_the_first_start_is_at_once_and_later_ones_in_a_row_take_longer() -> None:
    deaths = Restarts()
    waits = [deaths.ended(KILLED, 0.0, was_ready=True) for _ in range(3 * len(WAITS_S))]
    assert waits[: len(WAITS_S)] == list(WAITS_S)
    assert set(waits[len(WAITS_S) :]) == {WAITS_S[-1]}


def test_a_node_that_was_well_in_the_mesh_for_a_while_begins_anew() -> None:
    deaths = Restarts()
    for _ in range(4):
        deaths.ended(KILLED, 0.0, was_ready=True)
    deaths.joined(10.0)
    assert deaths.ended(KILLED, 10.0 + HEALTHY_S, was_ready=True) == WAITS_S[0]
    deaths.joined(100.0)
    assert deaths.ended(KILLED, 99.9 + HEALTHY_S, was_ready=True) == WAITS_S[1]
    # This one died while it was being loaded, however long that took.
    assert deaths.ended(KILLED, 10 * HEALTHY_S, was_ready=True) == WAITS_S[2]


def test_it_is_given_up_after_some_failed_starts_of_a_mesh_that_never_was_ready() -> None:
    deaths = Restarts()
    waits = [deaths.ended(1, 0.0, was_ready=False) for _ in range(MOST_FAILED_STARTS)]
    assert None not in waits[:-1]
    assert waits[-1] is None


@pytest.mark.parametrize("code", [2, 76, 77, 78])
def test_a_mistake_in_a_setting_ends_the_start_at_once_but_not_a_mesh_that_was_ready(
    code: int,
) -> None:
    assert Restarts().ended(code, 0.0, was_ready=False) is None
    deaths = Restarts()
    waits = [deaths.ended(code, 0.0, was_ready=True) for _ in range(100)]
    assert None not in waits


@pytest.mark.parametrize("was_ready", [False, True])
def test_a_node_that_an_operator_sent_away_stays_away(was_ready: bool) -> None:
    assert Restarts().ended(DISMISSED, 0.0, was_ready=was_ready) is None
