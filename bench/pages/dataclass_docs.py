"""What the docstring of a class says of its fields.

A docstring has a summary, and lines that begin with the name of a field and a colon. What such a
line says may go on in the next ones, up to an empty line or another field.
"""

from __future__ import annotations

import inspect


def summary_of(cls: type) -> str:
    """The docstring without what it says of fields."""
    return _read(cls)[0]


def meanings_of(cls: type) -> dict[str, str]:
    """Field -> what the docstring of the class, or of a class that it extends, says of it."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found |= _read(base)[1]
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
