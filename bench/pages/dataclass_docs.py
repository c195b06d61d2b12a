"""What the source of a class says of its fields.

Either the docstring has, after its summary, lines that begin with the name of a field and a colon.
What such a line says may go on in the next ones, up to an empty line or another field. Or a comment
that begins with `#:` stands behind the field or above it.
"""

from __future__ import annotations

import inspect
import re

_ABOVE = "    #: "
_FIELD = re.compile(r"    (?P<name>\w+): [^#]*(?:#: (?P<behind>.*))?")


def summary_of(cls: type) -> str:
    """The docstring without what it says of fields."""
    return _read(cls)[0]


def meanings_of(cls: type) -> dict[str, str]:
    """Field -> what the class, or a class that it extends, says of it."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found |= _read(base)[1] | _comments_of(base)
    return found


def _read(cls: type) -> tuple[str, dict[str, str]]:
    text = inspect.cleandoc(cls.__doc__ or "")
    if text.startswith(f"{cls.__name__}("):
        # What dataclass() writes where there is no docstring.
        text = ""
    names = frozenset(inspect.get_annotations(cls))
    summary, meanings = list[str](), dict[str, str]()
    of: list[str] = []
    for line in text.splitlines():
        head, colon, rest = line.partition(": ")
        said = head.split(", ")
        if colon and names.issuperset(said):
            of, line = said, rest
        elif not line.strip():
            of = []
        if not of:
            summary.append(line)
        for name in of:
            meanings[name] = f"{meanings.get(name, '')} {line.strip()}".strip()
    return " ".join(" ".join(summary).split()), meanings


def _comments_of(cls: type) -> dict[str, str]:
    """Field -> its comment above it or behind it."""
    found: dict[str, str] = {}
    above: list[str] = []
    source = inspect.getsource(cls) if inspect.get_annotations(cls) else ""
    for line in source.splitlines():
        if line.startswith(_ABOVE):
            above.append(line.removeprefix(_ABOVE))
        elif field := _FIELD.fullmatch(line):
            if said := [*above, *filter(None, [field["behind"]])]:
                found[field["name"]] = " ".join(said)
            above = []
    return found
