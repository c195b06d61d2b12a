from __future__ import annotations

import pytest

from nodes.coordinator.status.recent import STEP_S, WINDOW_S, Recent


def kept(until: int) -> Recent:
    """A total that grows by 3 a second, kept once a second."""
    recent = Recent()
    for second in range(until + 1):
        recent.keep({"x": 3.0 * second}, float(second))
    return recent


def test_a_rate_is_over_what_is_kept_and_no_more_than_the_window() -> None:
    assert kept(2).rate("x", 7.5, 2.5) == pytest.approx(3.0)
    assert kept(100).rate("x", 300.0 + 30.0, 100.5) == pytest.approx(60.0 / WINDOW_S, rel=0.1)


def test_what_is_new_has_no_rate_yet() -> None:
    assert Recent().rate("x", 5.0, 1.0) == 0.0
    assert kept(3).rate("y", 5.0, 4.0) == 0.0
    # Neither has what was seen at this moment only, or what began anew.
    assert Recent().rate("x", 5.0, 0.0) == 0.0
    assert kept(3).rate("x", 0.0, 4.0) == 0.0


def test_what_is_old_is_not_taken_for_recent() -> None:
    assert kept(3).rate("x", 1000.0, 60.0) == 0.0


def test_totals_are_due_once_a_second() -> None:
    recent = Recent()
    assert recent.is_due(5.0)
    recent.keep({}, 5.0)
    assert not recent.is_due(5.0 + STEP_S / 2)
    assert recent.is_due(5.0 + STEP_S)
