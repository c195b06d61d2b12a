from __future__ import annotations

import pytest

from nodes.telemetry.stage_errors import STAGES, ErrorFigures, StageErrors


def test_figures_are_of_relative_errors_whichever_way() -> None:
    errors = StageErrors()
    assert set(errors.figures()) == set(STAGES)
    assert set(errors.figures().values()) == {ErrorFigures()}
    for observed_s in (1.0, 3.0, 2.5):
        errors.observe("pass", observed_s, 2.0)
    figures = errors.figures()
    # 0.5, 0.5 and 0.25: as far below as above is as wrong.
    assert figures["pass"] == ErrorFigures(3, 0.5, 0.5)
    assert figures["plan"] == ErrorFigures()
    for number in range(101):
        errors.observe("plan", 1.0 + number / 100, 1.0)
    assert errors.figures()["plan"].p95 == pytest.approx(0.95)


def test_only_the_last_thousand_are_kept_but_all_are_counted() -> None:
    errors = StageErrors()
    for _ in range(500):
        errors.observe("pass", 3.0, 1.0)
    for _ in range(1000):
        errors.observe("pass", 1.5, 1.0)
    assert errors.figures()["pass"] == ErrorFigures(1500, 0.5, 0.5)


@pytest.mark.parametrize(("observed_s", "predicted_s"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)])
def test_what_is_not_known_is_no_error(observed_s: float, predicted_s: float) -> None:
    errors = StageErrors()
    errors.observe("pass", observed_s, predicted_s)
    assert errors.figures()["pass"] == ErrorFigures()
