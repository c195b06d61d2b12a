"""Kept data of tables: a file of JSON lines, of which the first one names and formats columns.

Each other line is a row: a value for each column, or a list where a column has several numbers. A
text stands as it is, where a run gave no numbers of the column's kind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from bench.pages.markdown import table
from bench.results.schema import ResultError

KEPT: Final = Path(__file__).with_name("kept")


class Kept:
    """The data of a table. columns: format by name. rows: values by names of columns.

    Raises OSError, and ResultError if a line is not what this module says.
    """

    def __init__(self, path: Path) -> None:
        # With Decimal a number has as many digits as were kept.
        try:
            head, *rows = (
                json.loads(line, parse_float=Decimal) for line in path.read_text().splitlines()
            )
            self.columns: Mapping[str, str] = head["columns"]
            self.rows: Sequence[Mapping[str, Any]] = [
                dict(zip(self.columns, row, strict=True)) for row in rows
            ]
        except (ValueError, TypeError, KeyError) as error:
            raise ResultError(f"{path.name}: {error}") from None

    def table(self) -> str:
        """Returns the table in Markdown."""
        shown = (
            [_shown(form, row[name]) for name, form in self.columns.items()] for row in self.rows
        )
        return table(list(self.columns), shown)

    def found(self, column: str, *first: object) -> Any:
        """Returns a column's value, of a list its first number, in the row that begins with some
        values. Raises ResultError if there is none."""
        for row in self.rows:
            if (*row.values(),)[: len(first)] == first:
                value = row[column]
                return value[0] if isinstance(value, list) else value
        raise ResultError(f"no row begins with {first}")


def _shown(form: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    return form.format(*value) if isinstance(value, list) else form.format(value)
