"""Plans come as often as texts end."""

from __future__ import annotations

import pytest

from nodes.scheduler import scheduler

# Texts of the machine take a second or so of its time, in which there would be one plan or none.
_PLAN_EVERY_S = 0.05


@pytest.fixture(autouse=True)
def _plans_come_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_PLAN_EVERY_S", _PLAN_EVERY_S)
