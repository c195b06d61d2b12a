"""Request bodies as pydantic models: strict types and ranges, errors that name a field.

null means that a field is absent. A field that is not declared is ignored, or an error with the
setting `strict_fields`.
"""

import asyncio
import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, Protocol, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError, ValidationError

from airdraft.nodes.gateway.errors import ApiError
from airdraft.nodes.messages import MAX_MESSAGES

# A client may send thousands of ignored fields; a few are enough for the warning.
_MOST_HINTS: Final = 16
# Levels of schemas and arguments. Programs do not nest deeper, and readers of them are recursive.
_MOST_DEPTH: Final = 64
# Tags of the alternatives of a union; they are not part of a field's path.
PLAIN: Final = "~plain"
LIST: Final = "~list"
OBJECT: Final = "~object"
TEXTS: Final = "~texts"
TOKENS: Final = "~tokens"
TOKEN_LISTS: Final = "~token lists"
_TAGS: Final = (PLAIN, LIST, OBJECT, TEXTS, TOKENS, TOKEN_LISTS)

# A body below it is read in a few milliseconds (2 cores of an x86, 2026-12-01).
_LARGE_BYTES: Final = 65_536

B = TypeVar("B", bound="Body")
T = TypeVar("T")
L = TypeVar("L")


class Body(BaseModel):
    """A JSON object.

    refused: fields that would change the text and are not supported, each with its harmless
    values. hints: known fields that never change the text; they are ignored.
    """

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)

    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    hints: ClassVar[frozenset[str]] = frozenset()

    def unused(self) -> tuple[str, ...]:
        """Declared fields that were given but have no effect with the others."""
        return ()


def declared(body: Body, kind: type[Body] | None = None) -> dict[str, Any]:
    """The fields that a body declares, or those that it shares with another kind."""
    return {name: getattr(body, name) for name in (kind or type(body)).model_fields}


class BodyReader:
    """Reads bodies, the large ones in a thread: that takes up to 0.2 s, in which others go on.

    One at a time, since each thread that computes delays the loop by some milliseconds.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore()

    async def run(self, num_bytes: int, work: Callable[[], T]) -> T:
        """What `work` returns for a body of this size."""
        if num_bytes <= _LARGE_BYTES:
            return work()
        async with self._turn:
            return await asyncio.to_thread(work)


class Hint(NamedTuple):
    """The path of an ignored field. is_known: whether it is declared or a known hint."""

    path: str
    is_known: bool


def parse_json(body: bytes) -> dict[str, Any]:
    """Parse a body. Raises ApiError, whose message never contains the body's text."""
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
    """Validate a body and return it with the first of its ignored fields.

    strict_fields: whether an ignored field is an error. Raises ApiError naming a field.
    """
    try:
        body = kind.model_validate(value)
    except ValidationError as error:
        raise _of_pydantic(error) from None
    ignored = tuple(islice(dict.fromkeys(_ignored(body, "", strict_fields)), _MOST_HINTS))
    return body, ignored


def wrong(path: str, message: str, code: str = "invalid_value") -> ApiError:
    return ApiError(400, f"{path}: {message}", param=path, code=code)


def missing(path: str) -> ApiError:
    return wrong(path, "this field is needed", "missing_required_parameter")


def refusal(message: str, code: str = "invalid_value") -> PydanticCustomError:
    """An error for a validator to raise; the path of its field is added later."""
    # Pydantic replaces what is in braces.
    return PydanticCustomError(code, "{reason}", {"reason": message})


def compact(value: Any) -> str:
    """A value as compact JSON. The order of fields is kept, because a prompt depends on it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def readable(value: dict[str, Any]) -> dict[str, Any]:
    """A validator for any JSON object of at most _MOST_DEPTH levels that UTF-8 can encode."""
    if _is_deeper(value, _MOST_DEPTH):
        raise refusal(f"this has more than {_MOST_DEPTH} levels")
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        raise refusal("this object is not valid JSON in UTF-8") from None
    return value


def _is_deeper(value: object, num_levels: int) -> bool:
    """Whether lists and objects are nested in more than so many levels."""
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return num_levels == 0 or any(_is_deeper(each, num_levels - 1) for each in inner)


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
# A list of at most as many items as a conversation may have messages, and one that is not empty.
Items = Annotated[list[L], Field(max_length=MAX_MESSAGES, fail_fast=True)]
SomeItems = Annotated[list[L], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
# A text, or a list of type L.
TextOr = Annotated[
    Annotated[Text, Tag(PLAIN)] | Annotated[L, Tag(LIST)], Discriminator(_plain_or_list)
]
# The choice of a function: a keyword, or an object with its name.
ChoiceOr = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag(PLAIN)] | Annotated[L, Tag(OBJECT)],
    Discriminator(_plain_or_object),
]


class HasText(Protocol):
    @property
    def text(self) -> str: ...


def text_of(content: str | Sequence[HasText] | None) -> str:
    """Join a text that may be given in parts; None becomes ""."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content)


def need(body: Body, names: Sequence[str], path: str) -> None:
    """Raises ApiError naming the first of these fields that is missing."""
    for name in names:
        if getattr(body, name) is None:
            raise missing(f"{path}.{name}")


def renamed(error: ApiError, names: Sequence[tuple[str, str]]) -> ApiError:
    """Rename the field of an error to its name in the body that the client sent.

    names: regular expressions and their replacements, applied to the path in turn.
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
        return missing(path)
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
    """The first 128 characters of a path: a client may send names of any length."""
    return path[:128].encode("utf-8", "replace").decode()


def _ignored(body: Body, path: str, strict_fields: bool) -> Iterator[Hint]:
    """Yield the fields below a path that have no effect. Raises ApiError as read() does."""
    kind = type(body)
    for name, value in (body.model_extra or {}).items():
        where = _shortened(f"{path}.{name}" if path else name)
        if value is None:
            continue
        if name in kind.refused:
            if isinstance(value, dict):
                value = {inner: each for inner, each in value.items() if each is not None}
            # The types are compared too, because True == 1 in Python.
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
            raise wrong(where, "this has no effect here", "unsupported_parameter")
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
