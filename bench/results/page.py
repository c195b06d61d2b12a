"""The page of measurements: prose from a template, tables from the data kept beside it."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Final

from bench.results.report import section
from bench.results.schema import from_json

KEPT: Final = Path(__file__).with_name("kept")
_ROOT: Final = Path(__file__).parents[2]
PAGE: Final = _ROOT / "docs" / "benchmarks.md"
# A line of the template that names a file with data.
_DATA: Final = re.compile(r"^\{\{(.+)\}\}$", re.MULTILINE)


def benchmarks(folder: Path = KEPT) -> str:
    """Return the whole page. Raises OSError if a file that the template names is missing, and
    ResultError if one is not a result."""
    template = (folder / "benchmarks.md.in").read_text()
    return _DATA.sub(lambda match: _table(folder / match[1]), template)


def _table(path: Path) -> str:
    if path.suffix == ".json":
        return section(from_json(path.read_text())).strip()
    with path.open(newline="") as file:
        head, *rows = csv.reader(file)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
