import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.gateway.errors import ApiError
from airdraft.nodes.gateway.json_size import MOST_ENTRIES, MOST_FIELDS, JsonSize

values = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('a",:[]{}\\é'), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


def added(size: JsonSize, text: bytes, piece_bytes: int) -> None:
    for start in range(0, len(text), piece_bytes):
        size.add(text[start : start + piece_bytes])


def num_fields(value: object) -> int:
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(num_fields, value.values()))
    return 1 + sum(map(num_fields, value)) if isinstance(value, list) else 0


@given(values, st.integers(1, 40))
def test_what_is_counted_is_what_is_outside_of_texts(value: object, piece_bytes: int) -> None:
    """So many of it are taken as the limit allows, and no more, wherever the parts end."""
    text, num = json.dumps(value).encode(), num_fields(value)
    for room, is_taken in ((num, True), (num - 1, False)):
        if room < 0:
            continue
        size = JsonSize()
        added(size, b"[" * (MOST_FIELDS - room), 10_000)
        if is_taken:
            added(size, text, piece_bytes)
        else:
            with pytest.raises(ApiError, match="objects, lists and fields"):
                added(size, text, piece_bytes)


def test_long_texts_and_many_token_ids_are_taken() -> None:
    size = JsonSize()
    size.add(json.dumps({"prompt": '{"a": [1, 2, "\\' * 100_000}).encode())
    size.add(b"1," * (MOST_ENTRIES - 1))
    with pytest.raises(ApiError, match="values"):
        size.add(b"1,1,")
