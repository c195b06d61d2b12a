"""Results of `equal-cores` as JSON lines: numbers as they were measured, one line each. Pure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

_CLOSED: Final = ConfigDict(extra="forbid")
# The way of airdraft that leaves guesses and threads to it, and the one without guesses.
AS_IT_COMES: Final = "as it comes"
PLAIN: Final = "plain"
# So many digits of a measured number are kept.
_DIGITS: Final = 4


class ResultError(Exception):
    """A file is not a result of this schema; the text names the line, the place and the reason."""


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
class Run:
    """The first line of a run; those up to the next one belong to it. made_at: UTC, ISO 8601.
    ways: options of each way by its name. own: names of airdraft's ways. versions: of the programs.
    read_bytes_per_s: what so many cores read from memory together, by their number. file_bytes: of
    the target's file, by pair.
    """

    kind: Literal["run"] = "run"
    schema: Literal["airdraft-bench/2"] = "airdraft-bench/2"
    made_at: str
    command: str
    commit: str
    machine: Machine
    ways: Mapping[str, str]
    own: tuple[str, ...]
    versions: tuple[str, ...]
    read_bytes_per_s: Mapping[str, float]
    file_bytes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True, config=_CLOSED)
class Turn:
    """One way in one turn of a cell, with figures as in bench.load.figures. num_compared: texts
    that were compared with those of plain decoding, as all of airdraft's ways promise the same.
    num_other_texts: those of them that differ."""

    kind: Literal["turn"] = "turn"
    cell: str
    turn: int
    way: str
    tokens_per_s: float
    first_token_s: float
    cpu_s_a_token: float
    num_texts: int
    num_failed: int = 0
    error: str = ""
    num_compared: int = 0
    num_other_texts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, config=_CLOSED)
class Start:
    """Tokens of one way in the first seconds of a fresh mesh, in one turn of a cell."""

    kind: Literal["start"] = "start"
    cell: str
    turn: int
    way: str
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True, config=_CLOSED)
class Cores:
    """How many cores' work all cores did at once, as `bench/cores.py` measures it before a cell."""

    kind: Literal["cores"] = "cores"
    cell: str
    at_once: float


@dataclass(frozen=True, slots=True, kw_only=True, config=_CLOSED)
class Skipped:
    """A way that did not run in a cell."""

    kind: Literal["skipped"] = "skipped"
    cell: str
    way: str
    reason: str


Line = Run | Turn | Start | Cores | Skipped
_READER: Final[TypeAdapter[Line]] = TypeAdapter(Annotated[Line, Field(discriminator="kind")])


def to_line(line: Line) -> str:
    """Returns a line of a result, with its end. Counts and texts that are 0 or "" are left out."""
    fields = {key: _kept(value) for key, value in dataclasses.asdict(line).items()}
    defaults = {field.name: field.default for field in dataclasses.fields(line)}
    named = ("kind", "schema")
    kept = {key: value for key, value in fields.items() if key in named or value != defaults[key]}
    return json.dumps(kept, ensure_ascii=False) + "\n"


def _kept(value: object) -> object:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def from_lines(text: bytes) -> list[Line]:
    """Read a result. Raises ResultError for anything that is not a result of this schema."""
    found: list[Line] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            found.append(_READER.validate_json(line))
        except ValidationError as error:
            raise ResultError(f"line {number}: {problem_of(error)}") from None
    if found and not isinstance(found[0], Run):
        raise ResultError("line 1: a result begins with its run")
    return found


def problem_of(error: ValidationError) -> str:
    """Returns in one line where in a file the first problem is, and which."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]
