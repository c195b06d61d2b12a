"""The short form of `python -m bench first`: it has a row for each length and kind of prompt."""

import pytest
from click.testing import CliRunner

from bench.first import FIRST_HEAD, GAPS_HEAD, first_command

ASKED = "--lengths 16,40 --workloads chat --repeats 2 --max-tokens 12"


@pytest.mark.model
@pytest.mark.timeout(600)
def test_first_tokens_and_gaps_are_measured_with_guesses_and_without() -> None:
    made = CliRunner().invoke(first_command, ASKED)
    assert made.exit_code == 0, made.output
    assert FIRST_HEAD in made.output
    assert GAPS_HEAD in made.output
    rows = [[cell.strip() for cell in line.split("|")] for line in made.output.splitlines()]
    rows = [cells[1:-1] for cells in rows if cells[2] in ("none", "as planned")]
    lengths = [(k, g) for k in ("16", "40", "chat") for g in ("none", "as planned")]
    assert [(cells[0], cells[1]) for cells in rows] == lengths
    assert all(float(cells[3]) > 0.0 for cells in rows)
