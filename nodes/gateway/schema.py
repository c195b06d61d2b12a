"""Bodies checked against a declaration: strict types and ranges.

A kind takes a value and the path of its field, and returns the value that the rest works with.
null stands for a field that is not there. A field that is not known is ignored, or an error:
hints() decides.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from nodes.gateway.errors import ApiError

Kind = Callable[[Any, str], Any]
Fields = Mapping[str, Kind]

# A client may send thousands; a few tell what it sends in vain.
_MOST_HINTS: Final = 16


class Hint(NamedTuple):
    """An ignored field, by its path. is_known: it is one of OpenAI's."""

    path: str
    is_known: bool


# None where each is an error.
_ignored: ContextVar[list[Hint] | None] = ContextVar("ignored", default=None)


@contextmanager
def hints(*, are_errors: bool = False) -> Iterator[list[Hint]]:
    """Collect the fields that mean nothing here, the first few of them, while a body is checked.
    are_errors: the first one is an ApiError instead."""
    found: list[Hint] = []
    token = _ignored.set(None if are_errors else found)
    try:
        yield found
    finally:
        _ignored.reset(token)


def _is_ignored(path: str, *, is_known: bool) -> bool:
    found, new = _ignored.get(), Hint(path, is_known)
    if found is not None and len(found) < _MOST_HINTS and new not in found:
        found.append(new)
    return found is not None


def parse_json(body: bytes) -> dict[str, Any]:
    """The object of a body. Raises ApiError; the text of the body is in none of its messages."""
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not valid JSON", code="invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def wrong(path: str, message: str, code: str = "invalid_value") -> ApiError:
    return ApiError(400, f"{path}: {message}", param=path, code=code)


def check(value: Any, fields: Fields, path: str = "") -> dict[str, Any]:
    """The fields of an object that are there and not null. Raises ApiError naming the first
    that is wrong, or unknown where that is an error."""
    if not isinstance(value, dict):
        raise wrong(path, "an object is accepted", "invalid_type")
    found: dict[str, Any] = {}
    for name, item in value.items():
        where = f"{path}.{name}" if path else name
        kind = fields.get(name)
        if kind is None:
            if _is_ignored(_shortened(where), is_known=False):
                continue
            near = difflib.get_close_matches(name[:64], fields, n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            raise wrong(_shortened(where), f"unknown field{hint}", "unknown_parameter")
        if item is not None:
            found[name] = kind(item, where)
    return found


def _shortened(path: str) -> str:
    """A name is whatever the client sent: not all of it is repeated."""
    return path[:128].encode("utf-8", "replace").decode()


def integer(low: int, high: int) -> Kind:
    def kind(value: Any, path: str) -> int:
        if type(value) is not int:
            raise wrong(path, "an integer is accepted", "invalid_type")
        if not low <= value <= high:
            raise wrong(path, f"{low} to {high} is accepted")
        return value

    return kind


def number(low: float, high: float) -> Kind:
    def kind(value: Any, path: str) -> float:
        if type(value) not in (int, float):
            raise wrong(path, "a number is accepted", "invalid_type")
        if not (low <= value <= high and math.isfinite(value)):
            raise wrong(path, f"{low:g} to {high:g} is accepted")
        return float(value)

    return kind


def boolean(value: Any, path: str) -> bool:
    if type(value) is not bool:
        raise wrong(path, "true or false is accepted", "invalid_type")
    return value


def string(max_chars: int, min_chars: int = 0) -> Kind:
    def kind(value: Any, path: str) -> str:
        if type(value) is not str:
            raise wrong(path, "a string is accepted", "invalid_type")
        if not min_chars <= len(value) <= max_chars:
            raise wrong(path, f"{min_chars} to {max_chars} characters are accepted")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise wrong(path, "half of a surrogate pair is no text") from None
        return value

    return kind


def one_of(*accepted: str) -> Kind:
    def kind(value: Any, path: str) -> str:
        if type(value) is not str:
            raise wrong(path, "a string is accepted", "invalid_type")
        if value not in accepted:
            raise wrong(path, f"one of {', '.join(accepted)} is accepted")
        return value

    return kind


def sequence(item: Kind, max_items: int, min_items: int = 0) -> Kind:
    def kind(value: Any, path: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise wrong(path, "a list is accepted", "invalid_type")
        if not min_items <= len(value) <= max_items:
            raise wrong(path, f"{min_items} to {max_items} entries are accepted")
        return tuple(item(entry, f"{path}[{index}]") for index, entry in enumerate(value))

    return kind


def obj(fields: Fields, required: Sequence[str] = ()) -> Kind:
    def kind(value: Any, path: str) -> dict[str, Any]:
        found = check(value, fields, path)
        for name in required:
            if name not in found:
                raise wrong(f"{path}.{name}", "this field is needed", "missing_required_parameter")
        return found

    return kind


def compact(value: Any) -> str:
    """A value as JSON; the order of fields is that of the text, which must stay."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def json_object(value: Any, path: str) -> dict[str, Any]:
    """An object of any JSON that is a text."""
    if not isinstance(value, dict):
        raise wrong(path, "an object is accepted", "invalid_type")
    try:
        compact(value).encode()
    except (ValueError, RecursionError):
        raise wrong(path, "this object cannot be read") from None
    return value


def hint(value: Any, path: str) -> None:
    """A field of OpenAI's that asks for nothing that a text depends on."""
    if not _is_ignored(path, is_known=True):
        raise wrong(path, "this is not supported here", "unsupported_parameter")


def unsupported(*neutral: Any) -> Kind:
    """A field of OpenAI's that a text would depend on, and that is not served; the neutral values
    ask for nothing."""

    def kind(value: Any, path: str) -> None:
        # True == 1 in Python: the types are compared, too.
        if not any(type(value) is type(other) and value == other for other in neutral):
            raise wrong(path, "this is not supported here", "unsupported_parameter")

    return kind
