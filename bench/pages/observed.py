"""What shows a mesh at work: its metrics, the status document, and the records of a trace."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator

from airdraft.nodes.telemetry import status
from airdraft.nodes.telemetry.metrics.families import Metric
from airdraft.nodes.telemetry.trace import records
from bench.pages.dataclass_docs import meanings_of, summary_of
from bench.pages.markdown import code, item, table, wrapped


def metrics(found: Iterable[Metric]) -> str:
    rows = [
        (code(each.name), each.kind, ", ".join(code(label) for label in each.labels), each.help)
        for each in found
    ]
    return table(("metric", "kind", "labels", "what it counts"), rows)


def status_fields() -> str:
    """Every class of the document, from the outside in."""
    return "\n\n".join(_classes(status.Status, status.Status.__name__, set()))


def trace_records() -> str:
    """The records by their kind."""
    seen = set[type]()
    return "\n\n".join(
        part for kind, cls in records.KINDS.items() for part in _classes(cls, kind, seen)
    )


def _classes(cls: type, title: str, seen: set[type]) -> Iterator[str]:
    seen.add(cls)
    yield f"### {title}"
    yield wrapped(summary_of(cls))
    meanings, hints = meanings_of(cls), inspect.get_annotations(cls)
    lines = (f"{code(name)} ({_kind(hint)}): {meanings[name]}" for name, hint in hints.items())
    yield "\n".join(map(item, lines))
    for name in re.findall(r"\w+", " ".join(hints.values())):
        inner = vars(inspect.getmodule(cls)).get(name)
        if isinstance(inner, type) and inner.__module__ == cls.__module__ and inner not in seen:
            yield from _classes(inner, name, seen)


def _kind(hint: str) -> str:
    """tuple[X, ...] as a list, and so on: what JSON has."""
    words = {"str": "text", "int": "integer", "float": "number", "bool": "boolean"}
    if found := re.fullmatch(r"tuple\[(.*), \.\.\.\]", hint):
        return f"list of {_kind(found[1])}"
    if found := re.fullmatch(r"dict\[str, (.*)\]", hint):
        return f"object of {_kind(found[1])}"
    if found := re.fullmatch(r"(.*) \| None", hint):
        return f"{_kind(found[1])} or null"
    if hint == "Labels":
        return "object of integer"
    return words.get(hint) or code(hint)
