"""Results as JSON: the command, the machine, and the figures. Pure."""

from __future__ import annotations

import dataclasses
import json
from typing import Final, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

SCHEMA: Final = "airdraft-bench/1"
_CLOSED: Final = ConfigDict(extra="forbid")


class ResultError(Exception):
    """A file is not a result of this schema; the text names the place and the reason."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_CLOSED)
class Machine:
    """The machine of a run. flags: those processor flags that matter to llama.cpp."""

    processor: str
    num_cores: int
    memory_bytes: int
    flags: tuple[str, ...]
    kernel: str
    python: str


@dataclass(frozen=True, slots=True, kw_only=True, config=_CLOSED)
class System:
    """A system that was measured. settings: in words, such as threads and numerics."""

    name: str
    version: str
    settings: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, config=_CLOSED)
class Value:
    """One figure of a system in a cell. low, high: its 95 % interval, or a range; None without."""

    metric: str
    unit: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, config=_CLOSED)
class Cell:
    """One system in one place of a table. ratios: ratios to `reference` from paired runs."""

    suite: str
    place: str
    system: str
    reference: str = ""
    values: tuple[Value, ...] = ()
    ratios: tuple[Value, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, config=_CLOSED)
class Results:
    """One run of a bench command. made_at: UTC, ISO 8601. command: the command line.

    skipped: parts that did not run, each with the reason. cores_at_once: work of all cores together
    as a multiple of that of one alone, the least that was measured; None if not measured.
    """

    schema: Literal["airdraft-bench/1"]
    made_at: str
    command: str
    commit: str
    machine: Machine
    systems: tuple[System, ...]
    cells: tuple[Cell, ...]
    skipped: tuple[str, ...] = ()
    is_quick: bool = False
    cores_at_once: float | None = None


_READER: Final = TypeAdapter(Results)


def to_json(results: Results) -> str:
    return json.dumps(dataclasses.asdict(results), indent=1, ensure_ascii=False) + "\n"


def from_json(text: str | bytes) -> Results:
    """Read a result. Raises ResultError for anything that is not a result of this schema."""
    try:
        return _READER.validate_json(text, strict=True)
    except ValidationError as error:
        raise ResultError(problem_of(error)) from None


def problem_of(error: ValidationError) -> str:
    """Return in one line where in a file the first problem is, and which."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]
