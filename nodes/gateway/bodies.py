"""Bodies of requests as pydantic models: strict types and ranges, errors that name a field.

null stands for a field that is not there. A field that is not declared is ignored, or an error
where the gateway's settings say so (`strict_fields`).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, Protocol, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Tag, ValidationError
from pydantic_core import PydanticCustomError

from nodes.gateway.errors import ApiError

# A client may send thousands of them; a few tell what it sends in vain.
_MOST_HINTS: Final = 16
# Of schemas and arguments: no program nests deeper, and what reads them does so step by step.
_MOST_DEPTH: Final = 64
# Tags of the alternatives of a union, which are no part of a field's path.
PLAIN: Final = "~plain"
LIST: Final = "~list"
OBJECT: Final = "~object"
TEXTS: Final = "~texts"
TOKENS: Final = "~tokens"
TOKEN_LISTS: Final = "~token lists"
_TAGS: Final = (PLAIN, LIST, OBJECT, TEXTS, TOKENS, TOKEN_LISTS)

B = TypeVar("B", bound="Body")
L = TypeVar("L")


class Body(BaseModel):
    """An object of JSON.

    refused: fields that would change the text and are not supported, each with the values that are
    harmless. hints: known fields that never change the text; they are ignored.
    """

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)

    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    hints: ClassVar[frozenset[str]] = frozenset()

    def unused(self) -> tuple[str, ...]:
        """Declared fields that were given and mean nothing beside the other ones."""
        return ()


class Hint(NamedTuple):
    """An ignored field, by its path. is_known: it is one of OpenAI's."""

    path: str
    is_known: bool


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


def read(
    kind: type[B], value: Mapping[str, Any], *, strict_fields: bool = False
) -> tuple[B, tuple[Hint, ...]]:
    """A body of this kind, and the first fields of it that are ignored.

    strict_fields: the first of them is an error instead. Raises ApiError that names a field.
    """
    try:
        body = kind.model_validate(value)
    except ValidationError as error:
        raise _of_pydantic(error) from None
    ignored = tuple(islice(dict.fromkeys(_ignored(body, "", strict_fields)), _MOST_HINTS))
    return body, ignored


def wrong(path: str, message: str, code: str = "invalid_value") -> ApiError:
    return ApiError(400, f"{path}: {message}", param=path, code=code)


def refusal(message: str, code: str = "invalid_value") -> PydanticCustomError:
    """For a validator to raise; the path of its field is added."""
    # Pydantic fills in what stands in braces.
    return PydanticCustomError(code, "{reason}", {"reason": message})


def compact(value: Any) -> str:
    """A value as JSON; the order of fields is that of the text, which must stay."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def readable(value: dict[str, Any]) -> dict[str, Any]:
    """A validator: an object of any JSON that is a text."""
    if depth_of(value) > _MOST_DEPTH:
        raise refusal(f"this has more than {_MOST_DEPTH} levels")
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        raise refusal("this object cannot be read") from None
    return value


def depth_of(value: object) -> int:
    """How many lists and objects stand in each other, up to a few more than are accepted."""
    depth, level = 0, list[object]([value])
    while depth <= _MOST_DEPTH:
        inner = [each for each in level if isinstance(each, dict | list)]
        if not inner:
            break
        depth += 1
        level = [
            item for each in inner for item in (each.values() if isinstance(each, dict) else each)
        ]
    return depth


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise refusal("this holds half of a surrogate pair, which is not valid Unicode") from None
    return text


def _plain_or_list(value: object) -> str:
    return LIST if isinstance(value, list) else PLAIN


def _plain_or_object(value: object) -> str:
    return OBJECT if isinstance(value, dict | Body) else PLAIN


Text = Annotated[str, AfterValidator(_encodable)]
Object = Annotated[dict[str, Any], AfterValidator(readable)]
# A text, or a list of what the brackets say.
TextOr = Annotated[
    Annotated[Text, Tag(PLAIN)] | Annotated[L, Tag(LIST)], Discriminator(_plain_or_list)
]
# Which function is to be called: in a word, or by its name.
ChoiceOr = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag(PLAIN)] | Annotated[L, Tag(OBJECT)],
    Discriminator(_plain_or_object),
]


class HasText(Protocol):
    @property
    def text(self) -> str: ...


def text_of(content: str | Sequence[HasText] | None) -> str:
    """A text that may be given in parts, or not at all."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content)


def need(body: Body, names: Sequence[str], path: str) -> None:
    """Raises ApiError naming the first of these fields that is not there."""
    for name in names:
        if getattr(body, name) is None:
            where = f"{path}.{name}" if path else name
            raise wrong(where, "this field is needed", "missing_required_parameter")


def renamed(error: ApiError, names: Sequence[tuple[str, str]]) -> ApiError:
    """An error whose field has another name in the body that a client sent.

    names: regular expressions of what is replaced in its path, one after the other.
    """
    if error.param is None:
        return error
    path = error.param
    for old, new in names:
        path = re.sub(old, new, path)
    return wrong(path, error.message.removeprefix(f"{error.param}: "), error.code or "")


def _of_pydantic(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_input=False)[0]
    path = _path(first["loc"])
    kind, message = first["type"], first["msg"].removeprefix("Input ")
    if kind == "missing":
        return wrong(path, "this field is needed", "missing_required_parameter")
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return wrong(path, "should be an object", "invalid_type")
    if kind.endswith(("_type", "int_from_float", "_parsing")):
        return wrong(path, message, "invalid_type")
    known = ("unsupported_parameter", "missing_required_parameter", "invalid_type")
    return wrong(path, message, kind if kind in known else "invalid_value")


def _path(places: tuple[int | str, ...]) -> str:
    path = ""
    for place in places:
        if isinstance(place, int):
            path += f"[{place}]"
        elif place not in _TAGS:
            path += f".{place}" if path else place
    return _shortened(path)


def _shortened(path: str) -> str:
    """A name is whatever the client sent: not all of it is repeated."""
    return path[:128].encode("utf-8", "replace").decode()


def _ignored(body: Body, path: str, strict_fields: bool) -> Iterator[Hint]:
    """The fields below a path that mean nothing here. Raises ApiError as read() does."""
    kind = type(body)
    for name, value in (body.model_extra or {}).items():
        where = _shortened(f"{path}.{name}" if path else name)
        if value is None:
            continue
        if name in kind.refused:
            # True == 1 in Python: the types are compared, too.
            if not any(type(value) is type(n) and value == n for n in kind.refused[name]):
                raise wrong(where, "this is not supported here", "unsupported_parameter")
            continue
        is_known = name in kind.hints
        if strict_fields and is_known:
            raise wrong(where, "this is not supported here", "unsupported_parameter")
        if strict_fields:
            near = difflib.get_close_matches(name[:64], kind.model_fields, n=1)
            meant = f", did you mean {near[0]}?" if near else ""
            raise wrong(where, f"unknown field{meant}", "unknown_parameter")
        yield Hint(where, is_known)
    for name in body.unused():
        where = f"{path}.{name}" if path else name
        if strict_fields:
            raise wrong(where, "this means nothing here", "unsupported_parameter")
        yield Hint(where, is_known=True)
    for name, field in kind.model_fields.items():
        where = f"{path}.{field.alias or name}" if path else field.alias or name
        value = getattr(body, name)
        if isinstance(value, Body):
            yield from _ignored(value, where, strict_fields)
        elif isinstance(value, list):
            for place, item in enumerate(value):
                if isinstance(item, Body):
                    yield from _ignored(item, f"{where}[{place}]", strict_fields)
