from __future__ import annotations

from typing import Any

import pytest

from nodes.gateway.errors import ApiError
from nodes.gateway.schema import (
    boolean,
    check,
    integer,
    number,
    obj,
    one_of,
    parse_json,
    sequence,
    string,
    unsupported,
)

FIELDS = {
    "count": integer(0, 10),
    "share": number(0, 1),
    "flag": boolean,
    "name": string(4, 1),
    "kind": one_of("a", "b"),
    "list": sequence(integer(0, 9), 2, 1),
    "inner": obj({"x": integer(0, 1)}, required=("x",)),
    "old": unsupported([], False),
}


def param_of(body: dict[str, Any]) -> tuple[str | None, str | None]:
    with pytest.raises(ApiError) as caught:
        check(body, FIELDS)
    assert caught.value.status == 400
    return caught.value.param, caught.value.code


def test_what_is_accepted_is_returned_and_null_is_not_there() -> None:
    body = {"count": 3, "share": 1, "flag": True, "name": "abc", "kind": "a", "list": [1, 2]}
    found = check({**body, "inner": {"x": 1}, "old": None}, FIELDS)
    assert found == {**body, "list": (1, 2), "inner": {"x": 1}}
    assert type(found["share"]) is float
    assert check({"old": [], "count": None}, FIELDS) == {"old": None}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"count": True}, "count", "invalid_type"),
        ({"count": 1.0}, "count", "invalid_type"),
        ({"count": 11}, "count", "invalid_value"),
        ({"share": True}, "share", "invalid_type"),
        ({"share": 1.5}, "share", "invalid_value"),
        ({"flag": 1}, "flag", "invalid_type"),
        ({"name": ""}, "name", "invalid_value"),
        ({"name": "\ud800"}, "name", "invalid_value"),
        ({"name": 1}, "name", "invalid_type"),
        ({"kind": "c"}, "kind", "invalid_value"),
        ({"kind": []}, "kind", "invalid_type"),
        ({"list": []}, "list", "invalid_value"),
        ({"list": [1, "x"]}, "list[1]", "invalid_type"),
        ({"list": {}}, "list", "invalid_type"),
        ({"inner": {}}, "inner.x", "missing_required_parameter"),
        ({"inner": {"y": 1}}, "inner.y", "unknown_parameter"),
        ({"inner": 1}, "inner", "invalid_type"),
        ({"old": 0}, "old", "unsupported_parameter"),
        ({"nmae": "x"}, "nmae", "unknown_parameter"),
    ],
)
def test_what_is_refused_is_named(body: dict[str, Any], param: str, code: str) -> None:
    assert param_of(body) == (param, code)


def test_a_wrong_name_is_told_the_right_one_and_not_repeated_at_length() -> None:
    with pytest.raises(ApiError, match="nmae: unknown field, did you mean name"):
        check({"nmae": 1}, FIELDS)
    with pytest.raises(ApiError) as caught:
        check({"\ud800" + "x" * 10_000: 1}, FIELDS)
    assert len(caught.value.message) < 200
    assert caught.value.content()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b"1",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b"\xff",
        b"[" * 100_000,
        b'{"a":' + b"1" * 10_000 + b"}",
    ],
)
def test_what_is_no_json_object_is_refused_without_being_repeated(body: bytes) -> None:
    with pytest.raises(ApiError, match="the body") as caught:
        parse_json(body)
    assert caught.value.status == 400
