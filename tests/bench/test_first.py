"""The short form of `python -m bench first`: it has a row for each length and kind of prompt."""

import pytest

from bench.asking import Pair
from bench.first import FIRST_HEAD, GAPS_HEAD, run_first


@pytest.mark.model
@pytest.mark.timeout(600)
async def test_first_tokens_and_gaps_are_measured_with_guesses_and_without() -> None:
    said: list[str] = []
    await run_first(Pair(), [16, 40], ["chat"], repeats=2, max_tokens=12, report=said.append)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in said if line]
    rows = [cells for cells in rows if cells[1] in ("none", "as planned")]
    lengths = [(k, g) for k in ("16", "40", "chat") for g in ("none", "as planned")]
    assert [(cells[0], cells[1]) for cells in rows] == lengths
    assert [said[0], said[5]] == [FIRST_HEAD, GAPS_HEAD]
    assert all(float(cells[3]) > 0.0 for cells in rows)
