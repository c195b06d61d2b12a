"""The page of the protocol has each message with its tag, its fields in their order, its limits."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

import nodes.messages
from mesh.messages import MAX_TAG, PROTOCOL_VERSION, MessageSpec, spec_of_tag

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "protocol.md"
TEXT = PAGE.read_text(encoding="utf-8")
# Of tests there are other messages, with tags of their own.
assert nodes.messages
SPECS = tuple(
    spec
    for tag in range(1, MAX_TAG + 1)
    if (spec := spec_of_tag(tag)) is not None
    and spec.layout.cls.__module__.startswith(("mesh.", "nodes."))
)
# Tag, senders, receivers, bytes of frame 0, token ids.
ROWS = {
    name: (tag, senders, receivers, num_bytes, num_tokens)
    for tag, name, senders, receivers, num_bytes, num_tokens in re.findall(
        r"^\| (\d+) \| `(\w+)` \| ([a-z, ]+) \| ([a-z, ]+) \| ([\d,]+) \| ([\d,]*) \|$",
        TEXT,
        flags=re.MULTILINE,
    )
}
# What is said of the fields of a message or struct, over several lines.
SAID = dict(re.findall(r"^- \*\*(\w+)\*\*: (.*?)\.$", TEXT, flags=re.MULTILINE | re.DOTALL))


def name_of(spec: MessageSpec) -> str:
    return spec.layout.cls.__name__


def number(text: str) -> int:
    return int(text.replace(",", "") or "0")


def test_the_page_has_the_version() -> None:
    assert f"The protocol has version {PROTOCOL_VERSION}." in TEXT


def test_the_page_has_the_messages_that_there_are() -> None:
    assert [*ROWS] == [name_of(spec) for spec in SPECS]


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_message_is_described(spec: MessageSpec) -> None:
    tag, _, _, num_bytes, num_tokens = ROWS[name_of(spec)]
    assert int(tag) == spec.tag
    assert number(num_bytes) == spec.max_bytes
    assert number(num_tokens) == spec.max_tokens
    said = SAID[name_of(spec)]
    assert re.findall(r"`(\w+)`", said) == [field.name for field in fields(spec.layout.cls)]
    in_frame_1 = re.findall(r"`(\w+)`\s+token\s+frame", said)
    assert in_frame_1 == [name for name in (spec.layout.token_field,) if name is not None]
