"""A log gets a line at the end of a step and not one a call."""

import pytest

from bench.distill.report import Reporter


def test_a_log_gets_the_last_line_only(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter() as reporter:
        for done in range(1, 6):
            reporter("steps", done, 5)
        reporter.note("a line")
    assert capsys.readouterr().err == "steps: 5 of 5\na line\n"
