"""`bench where`: clocks do not count a time twice, and what the target did adds up."""

import subprocess
import sys
from dataclasses import replace

import pytest

from bench.where.node import Clocks
from bench.where.table import Window, parts_ms, table


def test_what_a_function_calls_is_not_counted_as_its_own() -> None:
    class Work:
        now = 0.0

        def outer(self) -> None:
            Work.now += 2.0
            self.inner()
            Work.now += 1.0

        def inner(self) -> None:
            Work.now += 5.0

    clocks = Clocks("outer", lambda: Work.now)
    clocks.around(Work, "outer", "outer")
    clocks.around(Work, "inner", "inner")
    Work().outer()
    # Alone it is not part of what is timed.
    Work().inner()
    assert dict(clocks.calls) == {"outer": 1, "inner": 1}
    assert dict(clocks.seconds) == {"outer": 3.0, "inner": 5.0}


def test_parts_add_up_to_the_time_of_a_token_and_a_mesh_may_have_no_draft() -> None:
    seconds = {"seconds in model": 1.0, "seconds in sampling": 0.5, "seconds in step": 0.1}
    counts = {"calls of model": 50, "tokens committed": 100, "tokens fed": 200}
    target = {"at": 2.0, "engine_cpu_s": 1.6, "cpu_s": 1.8, **seconds, **counts}
    plain = Window(2, target, None, {"coordinator": 0.1, "gateway": 0.2}, {"target": 0.001})
    parts = parts_ms(plain, 10.0)
    assert sum(parts.values()) == pytest.approx(20.0)
    assert parts["between passes"] == pytest.approx(4.0)
    draft = {"at": 2.0, "seconds in model": 0.5, "calls of step": 50}
    rows = table([replace(plain, draft=draft), plain]).splitlines()
    assert "| processor: gateway | 2.00 | 2.00 |" in rows
    assert "| draft: ms a step | 10.00 | - |" in rows


@pytest.mark.model
@pytest.mark.timeout(300)
def test_the_default_pair_is_measured() -> None:
    command = [sys.executable, "-m", "bench", "where", "--streams", "1", "--max-tokens", "48"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")]
    figures = {row[1].strip(): [cell.strip() for cell in row[2:-1]] for row in rows}
    assert figures["streams"] == ["1, with guesses", "1, plain"]
    for label in ("tokens/s, all streams", "ms a pass"):
        assert all(float(value) > 0 for value in figures[label]), label
    # Beside slow passes this may round to nothing.
    assert all(float(value) >= 0 for value in figures["target: between passes"])
