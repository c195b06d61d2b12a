"""As much of PromQL as the dashboard uses, read strictly: what is not understood is an error."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<name>[A-Za-z_:][A-Za-z0-9_:]*)
    | (?P<number>[0-9]+(?:\.[0-9]+)?)
    | (?P<string>"[^"\\]*")
    | (?P<range>\[(?:\$__rate_interval|[0-9]+[smh])\])
    | (?P<match>!=|=~|!~)
    | (?P<mark>[(){},=/*+-])
    )""",
    re.VERBOSE,
)
_FUNCTIONS = {"rate": 1, "increase": 1, "histogram_quantile": 2, "vector": 1}
_AGGREGATES = {"sum", "max", "min", "avg", "count"}


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric with the labels it is matched by. is_range: whether over some time."""

    name: str
    labels: frozenset[str]
    is_range: bool


@dataclass(slots=True)
class Query:
    """selectors: of the whole expression. groups: what aggregates keep, with their selectors."""

    selectors: list[Selector] = field(default_factory=list)
    groups: list[tuple[frozenset[str], list[Selector]]] = field(default_factory=list)


def parse(text: str) -> Query:
    """Raises ValueError."""
    reader = _Reader(text)
    reader.expression()
    if reader.kind:
        raise ValueError(f"{text!r}: {reader.token!r} is left over")
    return reader.query


class _Reader:
    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self.query = Query()
        self.kind, self.token = "", ""
        self._next()

    def _next(self) -> str:
        before = self.token
        rest = self._text[self._at :]
        if not rest.strip():
            self.kind = self.token = ""
            return before
        found = _TOKEN.match(rest)
        if found is None:
            raise ValueError(f"{self._text!r}: cannot read {rest!r}")
        self._at += found.end()
        self.kind = found.lastgroup or ""
        self.token = found.group(self.kind)
        return before

    def _take(self, token: str) -> None:
        if self.token != token:
            raise ValueError(f"{self._text!r}: {token!r} expected, not {self.token!r}")
        self._next()

    def expression(self) -> None:
        self._operand()
        while self.token in ("+", "-", "*", "/", "or", "and"):
            self._next()
            self._operand()

    def _operand(self) -> None:
        if self.kind == "number":
            self._next()
        elif self.token == "(":
            self._next()
            self.expression()
            self._take(")")
        elif self.kind == "name":
            name = self._next()
            if name in _AGGREGATES:
                self._aggregate()
            elif self.token == "(":
                self._call(name)
            else:
                self._selector(name)
        else:
            raise ValueError(f"{self._text!r}: {self.token!r} is no operand")

    def _aggregate(self) -> None:
        kept: frozenset[str] = frozenset()
        if self.token == "by":
            self._next()
            kept = frozenset(self._names())
        before = len(self.query.selectors)
        self._take("(")
        self.expression()
        self._take(")")
        self.query.groups.append((kept, self.query.selectors[before:]))

    def _names(self) -> list[str]:
        found = []
        self._take("(")
        while self.token != ")":
            if self.kind != "name":
                raise ValueError(f"{self._text!r}: {self.token!r} is no label")
            found.append(self._next())
            if self.token == ",":
                self._next()
        self._next()
        return found

    def _call(self, name: str) -> None:
        if name not in _FUNCTIONS:
            raise ValueError(f"{self._text!r}: unknown function {name}")
        num_arguments = 1
        before = len(self.query.selectors)
        self._take("(")
        self.expression()
        while self.token == ",":
            self._next()
            self.expression()
            num_arguments += 1
        self._take(")")
        if num_arguments != _FUNCTIONS[name]:
            raise ValueError(f"{self._text!r}: {name} takes {_FUNCTIONS[name]} arguments")
        if name in ("rate", "increase") and not self.query.selectors[before].is_range:
            raise ValueError(f"{self._text!r}: {name} is over a range")

    def _selector(self, name: str) -> None:
        labels = []
        if self.token == "{":
            self._next()
            while self.token != "}":
                labels.append(self._next())
                if self.token not in ("=", "!=", "=~", "!~"):
                    raise ValueError(f"{self._text!r}: {self.token!r} is no match")
                self._next()
                if self.kind != "string":
                    raise ValueError(f"{self._text!r}: {self.token!r} is no value")
                self._next()
                if self.token == ",":
                    self._next()
            self._next()
        is_range = self.kind == "range"
        if is_range:
            self._next()
        self.query.selectors.append(Selector(name, frozenset(labels), is_range))
