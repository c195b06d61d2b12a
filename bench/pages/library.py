"""The public names of airdraft.nodes.api, with their signatures and docstrings."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Final, get_type_hints

import airdraft.nodes.api
from bench.pages.dataclass_docs import meanings_of, summary_of
from bench.pages.markdown import code, item, wrapped

CALLS: Final = ("connect", "Client", "AsyncClient", "Stream", "AsyncStream")
ANSWERS: Final = ("Completion", "Choice", "Usage", "Piece", "ChatMessage")
_WIDTH: Final = 100


def described(names: Sequence[str]) -> str:
    return "\n\n".join(part for name in names for part in _described(name))


def options() -> str:
    return "\n".join(_fields(airdraft.nodes.api.Options))


def errors() -> str:
    found = (getattr(airdraft.nodes.api, name) for name in airdraft.nodes.api.__all__)
    return "\n".join(
        item(f"{code(kind.__name__)} ({_bases(kind)}): {_doc(kind)}")
        for kind in found
        if isinstance(kind, type) and issubclass(kind, Exception)
    )


def _bases(kind: type) -> str:
    return ", ".join(code(base.__name__) for base in kind.__bases__)


def _described(name: str) -> Iterator[str]:
    value = getattr(airdraft.nodes.api, name)
    yield f"### {name}"
    if not isinstance(value, type):
        yield _signature(name, value)
        yield _doc(value)
        return
    is_data = dataclasses.is_dataclass(value)
    yield wrapped(summary_of(value)) if is_data else _doc(value)
    yield "\n".join([*(_fields(value) if is_data else ()), *_properties(value)])
    for member, found in vars(value).items():
        if inspect.isfunction(found) and not member.startswith("_"):
            yield _signature(f"{name}.{member}", found)
            yield _doc(found)


def _fields(cls: type) -> Iterator[str]:
    meanings, hints = meanings_of(cls), get_type_hints(cls)
    for name, written in inspect.get_annotations(cls).items():
        # A bound on the wire is none of a program's business; a hint of several words stays as it
        # is written.
        hint = hints[name].__name__ if hints[name] in (str, int, float, bool) else written
        hint = getattr(hint, "__forward_arg__", hint)
        yield item(f"{code(name)} ({code(hint)}): {meanings[name]}")


def _properties(cls: type) -> Iterator[str]:
    for name, found in vars(cls).items():
        if isinstance(found, property) and found.fget is not None:
            hint = inspect.get_annotations(found.fget)["return"]
            yield item(f"{code(name)} ({code(hint)}): {_doc(found)}")


def _signature(name: str, function: Any) -> str:
    """As a call is written, a line for each parameter where it would be long."""
    parts = list[str]()
    found = inspect.signature(function)
    for parameter in found.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        text, default = f"{stars}{parameter.name}: {parameter.annotation}", parameter.default
        if default is not parameter.empty:
            text += " = " + ("..." if callable(default) else repr(default).replace("'", '"'))
        parts.append(text)
    wait = "async " if inspect.iscoroutinefunction(function) else ""
    head, tail = f"{wait}{name}(", f") -> {found.return_annotation}"
    line = head + ", ".join(parts) + tail
    if len(line) > _WIDTH:
        line = head + "".join(f"\n    {part}," for part in parts) + "\n" + tail
    return f"```text\n{line}\n```"


def _doc(value: Any) -> str:
    paragraphs = inspect.cleandoc(value.__doc__ or "").split("\n\n")
    return "\n\n".join(wrapped(paragraph) for paragraph in paragraphs)
