"""Results as JSON: the command, the machine, and the figures. Pure."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from typing import Any, TypeVar

SCHEMA = "airdraft-bench/1"
T = TypeVar("T")


class ResultError(Exception):
    """A file is not a result of this schema; the text names the place and the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine of a run. flags: those processor flags that matter to llama.cpp."""

    processor: str
    num_cores: int
    memory_bytes: int
    flags: tuple[str, ...]
    kernel: str
    python: str


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A system that was measured. settings: in words, such as threads and numerics."""

    name: str
    version: str
    settings: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One figure of a system in a cell. low, high: its 95 % interval, or a range; None without."""

    metric: str
    unit: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One system in one place of a table. ratios: ratios to `reference` from paired runs, by which
    regressions are judged.
    """

    suite: str
    place: str
    system: str
    reference: str = ""
    values: tuple[Value, ...] = ()
    ratios: tuple[Value, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """One run of a bench command. made_at: UTC, ISO 8601. command: the command line.

    skipped: parts that did not run, each with the reason. cores_at_once: work of all cores together
    as a multiple of that of one alone, the least that was measured; None if not measured.
    """

    schema: str
    made_at: str
    command: str
    commit: str
    machine: Machine
    systems: tuple[System, ...]
    cells: tuple[Cell, ...]
    skipped: tuple[str, ...] = ()
    is_quick: bool = False
    cores_at_once: float | None = None


def to_json(results: Results) -> str:
    return json.dumps(dataclasses.asdict(results), indent=1, ensure_ascii=False) + "\n"


def from_json(text: str) -> Results:
    """Read a result. Raises ResultError for anything that is not a result of this schema."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ResultError(f"not valid JSON: {error}") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ResultError(f"the schema is not {SCHEMA}")
    return _read(Results, data, "result")


def _read(kind: type[T], data: Any, where: str) -> T:
    if not isinstance(data, dict):
        raise ResultError(f"{where}: an object is expected")
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(typing.cast(Any, kind))}
    if unknown := data.keys() - fields.keys():
        raise ResultError(f"{where}: unknown {', '.join(sorted(unknown))}")
    missing = [
        name
        for name, item in fields.items()
        if name not in data and item.default is dataclasses.MISSING
    ]
    if missing:
        raise ResultError(f"{where}: {', '.join(missing)} missing")
    values = {name: _value(hints[name], data[name], f"{where}.{name}") for name in data}
    return kind(**values)


def _value(kind: Any, data: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _read(typing.cast(type, kind), data, where)
    if typing.get_origin(kind) is tuple:
        if not isinstance(data, list):
            raise ResultError(f"{where}: a list is expected")
        inner = typing.get_args(kind)[0]
        return tuple(_value(inner, item, f"{where}[{k}]") for k, item in enumerate(data))
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if float in kinds and type(data) is int:
        return float(data)
    if type(data) not in kinds:
        raise ResultError(f"{where}: {data!r} is not of type {kind}")
    return data
