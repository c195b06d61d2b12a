"""`bench where`: clocks do not count a time twice, and what the target did adds up."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from bench.where.clock import Clocks
from bench.where.run import Clock, Window
from bench.where.table import parts_ms, table


class _Work:
    def outer(self) -> None:
        time.sleep(0.02)
        self.inner()

    def inner(self) -> None:
        time.sleep(0.05)


def test_what_a_function_calls_is_not_counted_as_its_own() -> None:
    class Work(_Work):
        pass

    clocks = Clocks("outer")
    clocks.around(Work, "outer", "outer")
    clocks.around(Work, "inner", "inner")
    began = time.perf_counter()
    Work().outer()
    whole = time.perf_counter() - began
    # Alone it is not part of what is timed.
    Work().inner()
    assert dict(clocks.calls) == {"outer": 1, "inner": 1}
    assert sum(clocks.seconds.values()) == pytest.approx(whole, abs=0.01)
    assert 0.02 <= clocks.seconds["outer"] < 0.05 <= clocks.seconds["inner"]


def _window(draft: Clock | None) -> Window:
    target = Clock(
        2.0,
        {"model": 1.0, "sampling": 0.5, "step": 0.1},
        {"model": 50, "step": 50},
        {"committed": 100, "fed": 200},
        1.6,
        1.8,
    )
    return Window(2, target, draft, {"coordinator": 0.1, "gateway": 0.2}, {"target": 0.001})


def test_parts_add_up_to_the_time_of_a_token() -> None:
    parts = parts_ms(_window(None))
    assert sum(parts.values()) == pytest.approx(20.0)
    assert parts["between passes"] == pytest.approx(4.0)


def test_a_mesh_without_a_draft_has_no_figures_of_one() -> None:
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for line in table([_window(None)]).splitlines()[2:]
        if (cells := line.split("|"))
    }
    assert rows["tokens a pass and stream"] == ["1.00"]
    assert rows["processor: gateway"] == ["2.00"]
    assert rows["draft: ms a step"] == ["-"]


@pytest.mark.model
@pytest.mark.timeout(300)
def test_the_default_pair_is_measured() -> None:
    command = [sys.executable, "-m", "bench", "where", "--streams", "1", "--max-tokens", "16"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")]
    figures = {row[1].strip(): [cell.strip() for cell in row[2:-1]] for row in rows}
    assert figures["streams"] == ["1, with guesses", "1, plain"]
    for label in ("tokens/s, all streams", "ms a pass", "target: between passes"):
        assert all(float(value) > 0 for value in figures[label]), label
