"""PROTOCOL.md has each message with its tag, its fields in their order, and its limits."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

import nodes.messages as _registered
from mesh.messages import MAX_TAG, MessageSpec, spec_of_tag

TEXT = (Path(__file__).parent.parent / "PROTOCOL.md").read_text(encoding="utf-8")
assert _registered
# Of tests there are other messages, with tags of their own.
SPECS = tuple(
    spec
    for tag in range(1, MAX_TAG + 1)
    if (spec := spec_of_tag(tag)) is not None
    and spec.layout.cls.__module__.startswith(("mesh.", "nodes."))
)


def name_of(spec: MessageSpec) -> str:
    return spec.layout.cls.__name__


def row_of(name: str) -> list[str]:
    """The cells of the row that has the message's tag and name."""
    rows = [line.strip("| ").split(" | ") for line in TEXT.splitlines() if line.startswith("| ")]
    (found,) = [row for row in rows if len(row) >= 4 and row[1] == name]
    return found


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_message_is_described(spec: MessageSpec) -> None:
    row = row_of(name_of(spec))
    assert int(row[0]) == spec.tag
    expected = [f.name for f in fields(spec.layout.cls) if f.name != spec.layout.token_field]
    # What a list or a struct holds stands in brackets behind its name.
    shown = re.sub(r"\([^()]*\)", "", row[2])
    while shown != (shown := re.sub(r"\([^()]*\)", "", shown)):
        pass
    assert re.findall(r"`(\w+)`", shown) == expected


def sizes(head: str) -> dict[str, int]:
    """Limits by message, of the table with this head."""
    rows = TEXT.split(f"| {head} | Messages |\n|---|---|\n")[1].split("\n\n")[0]
    limits = {}
    for row in rows.splitlines():
        limit, names = row.strip("| ").split(" | ")
        limits |= dict.fromkeys(names.split(", "), int(limit.replace(",", "")))
    return limits


def test_limits_of_nodes_messages() -> None:
    most = sizes("Frame 0, bytes at most")
    others = most.pop("all that are not named here")
    of_nodes = [spec for spec in SPECS if spec.tag >= 16]
    assert {name_of(s): s.max_bytes for s in of_nodes if s.max_bytes != others} == most
    tokens = {name_of(s): s.max_tokens for s in SPECS if s.max_tokens}
    assert tokens == sizes("Frame 1, token ids at most")
