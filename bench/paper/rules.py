"""Rules for the values of a scenario file, and errors that name the accepted values."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

T = TypeVar("T")


class ScenarioError(ValueError):
    """A bad scenario. The text names file, key, value and the accepted values."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Rule for a value. kind: int, float, bool or str. many: a list of at least one value."""

    kind: type
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    many: bool = False

    def accepted(self) -> str:
        if self.choices:
            what = f"one of {', '.join(self.choices)}"
        elif self.kind is bool:
            what = "true or false"
        else:
            what = "a whole number" if self.kind is int else "a number"
            if self.high < math.inf:
                what += f" from {self.low:g} to {self.high:g}"
            elif self.low > -math.inf:
                what += f" of at least {self.low:g}"
        return f"a list, each {what}," if self.many else what

    def admits(self, value: object) -> bool:
        if self.kind is bool or isinstance(value, bool):
            return self.kind is bool and isinstance(value, bool)
        if self.kind is str:
            return isinstance(value, str) and value in self.choices
        if not isinstance(value, int if self.kind is int else (int, float)):
            return False
        # TOML permits infinite numbers and NaN, which no value here may be.
        return math.isfinite(value) and self.low <= value <= self.high

    def read(self, value: object) -> Any:
        """Return the value in its type, with tuples for lists. Raises ValueError."""
        if not self.many:
            if not self.admits(value):
                raise ValueError
            return self.kind(value)
        if not isinstance(value, list) or not value or not all(map(self.admits, value)):
            raise ValueError
        return tuple(self.kind(item) for item in value)


def number(low: float, high: float = math.inf, *, many: bool = False) -> Any:
    return field(metadata={"rule": Rule(float, low, high, many=many)})


def count(low: float, high: float = math.inf, *, many: bool = False) -> Any:
    return field(metadata={"rule": Rule(int, low, high, many=many)})


def choice(*choices: str, many: bool = False) -> Any:
    return field(metadata={"rule": Rule(str, choices=choices, many=many)})


def flag() -> Any:
    """Return a field that is true or false."""
    return field(metadata={"rule": Rule(bool)})


def read_table(cls: type[T], table: str, given: object) -> T:
    """Read one table as its dataclass. Raises ScenarioError, without the file's name."""
    if not isinstance(given, Mapping):
        raise ScenarioError(
            f"[{table}] is missing: a table with these keys is accepted: {_keys(cls)}"
        )
    rules: dict[str, Rule] = {
        item.name: item.metadata["rule"]
        for item in fields(cls)  # type: ignore[arg-type]
    }
    for key, value in given.items():
        if key not in rules:
            near = difflib.get_close_matches(key, rules, n=1)
            hint = f"did you mean {near[0]}?" if near else f"accepted are {_keys(cls)}"
            raise ScenarioError(f"{table}.{key} = {value!r}: unknown key, {hint}")
    values = {}
    for key, rule in rules.items():
        if key not in given:
            raise ScenarioError(f"{table}.{key} is missing: {rule.accepted()} is accepted")
        try:
            values[key] = rule.read(given[key])
        except ValueError:
            raise ScenarioError(
                f"{table}.{key} = {given[key]!r}: {rule.accepted()} is accepted"
            ) from None
    return cls(**values)


def _keys(cls: type[Any]) -> str:
    return ", ".join(item.name for item in fields(cls))
