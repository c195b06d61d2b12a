from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field

from nodes.gateway.bodies import Body, Hint, Object, Text, parse_json, read
from nodes.gateway.errors import ApiError


class Inner(Body):
    x: Annotated[int, Field(ge=0, le=1)]


class Example(Body):
    refused: ClassVar = {"old": ([], False)}
    hints: ClassVar = frozenset({"idle"})

    count: Annotated[int, Field(ge=0, le=10)] | None = None
    share: Annotated[float, Field(ge=0, le=1)] | None = None
    flag: bool | None = None
    name: Annotated[Text, Field(min_length=1, max_length=4)] | None = None
    kind: Literal["a", "b"] | None = None
    few: (
        Annotated[
            list[Annotated[int, Field(ge=0, le=9)]],
            Field(min_length=1, max_length=2, fail_fast=True),
        ]
        | None
    ) = None
    inner: Inner | None = None
    any: Object | None = None


def refused(body: dict[str, Any], *, strict_fields: bool = True) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(Example, body, strict_fields=strict_fields)
    assert caught.value.status == 400
    assert caught.value.content()
    return caught.value


def test_what_is_accepted_is_there_and_null_is_not() -> None:
    found, ignored = read(
        Example, {"count": 3, "share": 1, "flag": True, "few": [1, 2], "inner": {"x": 1}}
    )
    assert (found.count, found.share, found.flag, found.few) == (3, 1.0, True, [1, 2])
    assert type(found.share) is float
    assert found.inner == Inner(x=1)
    assert ignored == ()
    found, ignored = read(Example, {"old": [], "count": None, "other": None}, strict_fields=True)
    assert (found.count, ignored) == (None, ())


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"count": True}, "count", "invalid_type"),
        ({"count": 1.0}, "count", "invalid_type"),
        ({"count": "1"}, "count", "invalid_type"),
        ({"count": 11}, "count", "invalid_value"),
        ({"share": True}, "share", "invalid_type"),
        ({"share": 1.5}, "share", "invalid_value"),
        ({"flag": 1}, "flag", "invalid_type"),
        ({"name": ""}, "name", "invalid_value"),
        ({"name": "\ud800"}, "name", "invalid_value"),
        ({"name": 1}, "name", "invalid_type"),
        ({"kind": "c"}, "kind", "invalid_value"),
        ({"kind": []}, "kind", "invalid_value"),
        ({"few": []}, "few", "invalid_value"),
        ({"few": [1, 2, 3]}, "few", "invalid_value"),
        ({"few": [1, "x"]}, "few[1]", "invalid_type"),
        ({"few": {}}, "few", "invalid_type"),
        ({"inner": {}}, "inner.x", "missing_required_parameter"),
        ({"inner": {"x": 1, "y": 1}}, "inner.y", "unknown_parameter"),
        ({"inner": 1}, "inner", "invalid_type"),
        ({"any": {"a": "\ud800"}}, "any", "invalid_value"),
        ({"any": []}, "any", "invalid_type"),
        ({"old": 0}, "old", "unsupported_parameter"),
        ({"idle": 1}, "idle", "unsupported_parameter"),
        ({"nmae": "x"}, "nmae", "unknown_parameter"),
    ],
)
def test_what_is_refused_is_named(body: dict[str, Any], param: str, code: str) -> None:
    error = refused(body)
    assert (error.param, error.code) == (param, code)


def test_what_means_nothing_is_told_where_it_is_no_error() -> None:
    _, ignored = read(Example, {"nmae": "x", "idle": 1, "inner": {"x": 1, "y": [2]}})
    assert ignored == (Hint("nmae", False), Hint("idle", True), Hint("inner.y", False))
    assert refused({"old": 0}, strict_fields=False).param == "old"


def test_a_wrong_name_is_told_the_right_one_and_nothing_is_repeated_at_length() -> None:
    assert "nmae: unknown field, did you mean name" in refused({"nmae": 1}).message
    assert len(refused({"\ud800" + "x" * 10_000: 1}).message) < 200
    for value in ("secret", ["secret"]):
        for name in ("count", "kind", "few", "flag"):
            assert "secret" not in refused({name: value}).message


LONG = b'{"a":' + b"1" * 10_000 + b"}"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b"1", b'{"a":NaN}', b'{"a":Infinity}', b"\xff", b"[" * 100_000, LONG],
)
def test_what_is_no_json_object_is_refused_without_being_repeated(body: bytes) -> None:
    with pytest.raises(ApiError, match="the body") as caught:
        parse_json(body)
    assert caught.value.status == 400
