"""Reads tables of a scenario file key by key, with one line for an error.

The line names the file, the key with its path, the value, and the accepted values.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

_MAX_SHOWN = 60
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,60}")
_MAX_NAME = 40


class ScenarioError(ValueError):
    """A scenario is invalid; the text is one line with file, key, value and accepted values."""


def shown(value: Any) -> str:
    """Returns a value as a short text without line breaks."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


class Table:
    """One table of a file. The methods that read values raise ScenarioError for bad ones.

    source: the file. path: dotted path of the table, "" for the whole file. known: the accepted
    keys; None for a file of which only a part is read. Raises ScenarioError for any other key.
    """

    def __init__(
        self, source: str, path: str, values: Mapping[str, Any], known: Sequence[str] | None
    ) -> None:
        self.source = source
        self.path = path
        self.values = values
        for key in values:
            if known is not None and key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {self.at(near[0])}?" if near else f"known: {', '.join(known)}"
                raise self.error(key, f"unknown key, {hint}")

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def error(self, key: str, reason: str, *, index: int | None = None) -> ScenarioError:
        """Returns an error about the value of a key, or about one element of it."""
        if key not in self.values:
            return ScenarioError(f"{self.source}: {self.at(key)} is missing: {reason}")
        value, at = self.values[key], self.at(key)
        if index is not None:
            value, at = value[index], f"{at}[{index}]"
        return ScenarioError(f"{self.source}: {at} = {shown(value)}: {reason}")

    def number(
        self, key: str, default: float | None = None, *, low: float = 0.0, high: float
    ) -> float:
        """Read a number from low to high."""
        if key not in self.values and default is not None:
            return default
        value = self.values.get(key)
        if not (is_number(value) and low <= value <= high):
            raise self.error(key, f"a number from {low:g} to {high:g} is accepted")
        return float(value)

    def integer(self, key: str, default: int | None = None, *, low: int, high: int) -> int:
        """Read a whole number from low to high."""
        if key not in self.values and default is not None:
            return default
        value = self.values.get(key)
        if type(value) is not int or not low <= value <= high:
            raise self.error(key, f"a whole number from {low} to {high} is accepted")
        return value

    def numbers(self, key: str, *, low: float = 0.0, high: float) -> tuple[float, ...]:
        """Read an array of at least one number."""
        for index, value in self._elements(key, "numbers"):
            if not (is_number(value) and low <= value <= high):
                reason = f"a number from {low:g} to {high:g} is accepted"
                raise self.error(key, reason, index=index)
        return tuple(float(value) for value in self.values[key])

    def ascending(self, key: str, *, high: int) -> tuple[int, ...]:
        """Read an array of whole numbers from 1 to high, each greater than the one before."""
        last = 0
        for index, value in self._elements(key, "ascending whole numbers"):
            if type(value) is not int or not last < value <= high:
                reason = f"a whole number from {last + 1} to {high} is accepted"
                raise self.error(key, reason, index=index)
            last = value
        return tuple(self.values[key])

    def flag(self, key: str, default: bool) -> bool:
        """Read true or false."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "true or false is accepted")
        return value

    def text(self, key: str) -> str:
        """Read a text that is not empty, such as a path."""
        value = self.values.get(key)
        if not isinstance(value, str) or not value:
            raise self.error(key, "a text is accepted")
        return value

    def name(self, key: str, default: str | None = None) -> str:
        """Read a short name that can be printed in a table."""
        if key not in self.values and default is not None:
            return default
        value = self.values.get(key)
        if not (isinstance(value, str) and value.isascii() and value.isprintable()) or not (
            value == value.strip() and 0 < len(value) <= _MAX_NAME
        ):
            raise self.error(key, f"a name of 1 to {_MAX_NAME} ASCII characters is accepted")
        return value

    def table(self, key: str, known: Sequence[str] | None) -> Table:
        """Read a table below this one."""
        value = self.values.get(key)
        if not isinstance(value, Mapping):
            raise self.error(key, "a table is accepted")
        return Table(self.source, self.at(key), value, known)

    def tables(self, key: str, known: Sequence[str] | None) -> list[Table]:
        """Read an array of tables, which is empty if the key is missing."""
        reason = f"an array of tables, [[{self.at(key)}]], is accepted"
        found = self.values.get(key, [])
        if not isinstance(found, list):
            raise self.error(key, reason)
        for index, value in enumerate(found):
            if not isinstance(value, Mapping):
                raise self.error(key, reason, index=index)
        return [
            Table(self.source, f"{self.at(key)}[{index}]", value, known)
            for index, value in enumerate(found)
        ]

    def _elements(self, key: str, kind: str) -> Iterator[tuple[int, Any]]:
        value = self.values.get(key)
        if not isinstance(value, list) or not value:
            raise self.error(key, f"an array of {kind} is accepted")
        return enumerate(value)

    def at(self, key: str) -> str:
        """Returns the dotted path of a key."""
        # A quoted key may contain any characters, even a line break.
        shown_key = key if _BARE_KEY.fullmatch(key) else shown(key)
        return f"{self.path}.{shown_key}" if self.path else shown_key


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
