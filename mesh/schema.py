"""Compiles the type hints of message fields, once, into converters that check values."""

import math
from collections.abc import Callable, Sized
from dataclasses import dataclass, fields, is_dataclass
from operator import attrgetter
from typing import Annotated, Any, Final, NewType, Protocol, get_args, get_origin, get_type_hints

from airdraft.mesh.errors import LocalProtocolError

MAX_STR_CHARS: Final = 1024
MAX_BYTES_LEN: Final = 65536
MAX_TUPLE_ITEMS: Final = 1024
INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1

Convert = Callable[[Any], Any]


class Reader(Protocol):
    """Reads the encoded values in order.

    unpack() and read_array_header() raise ValueError if there is no such value.
    """

    def unpack(self) -> Any:
        """Returns the next value: a number, text, bytes, bool, None, or an empty array."""

    def read_array_header(self) -> int:
        """Enter the next value, an array, and return the number of items that it declares."""

    def tell(self) -> int: ...


Read = Callable[[Reader], Any]


class InvalidValueError(ValueError):
    """A value violates its field's schema; the message names the field but not the value."""


@dataclass(frozen=True, slots=True)
class Range:
    """Inclusive bounds of an int (within -2**63..2**64-1) or a float."""

    lo: float
    hi: float


@dataclass(frozen=True, slots=True)
class MaxLen:
    """The largest number of characters of a str, bytes of a bytes, or items of a tuple."""

    n: int


class TokenIdsMarker:
    """Marks the one field that is sent as a separate raw frame."""


TOKEN_IDS: Final = TokenIdsMarker()
TokenIds = Annotated[tuple[int, ...], TOKEN_IDS]


@dataclass(frozen=True, slots=True)
class Converter:
    """Converts one field in both directions.

    read: reads the field from a reader positioned at it. It enters only arrays that the schema has
    at this place, so that nesting costs a receiver nothing.
    """

    to_wire: Convert
    read: Read


class Layout:
    """The wire layout of a message or struct class: its fields in order of declaration.

    Raises LocalProtocolError for a field of a type that cannot be sent.
    """

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.token_field: str | None = None
        self._token_index = 0
        converters: list[Converter] = []
        names: list[str] = []
        hints = get_type_hints(cls, include_extras=True)
        for index, field in enumerate(fields(cls)):
            where = f"{cls.__name__}.{field.name}"
            hint = hints[field.name]
            if get_origin(hint) is Annotated and TOKEN_IDS in hint.__metadata__:
                if self.token_field is not None:
                    raise LocalProtocolError(f"{where}: a second TokenIds field")
                self.token_field, self._token_index = field.name, index
                continue
            converters.append(converter_for(hint, where))
            names.append(field.name)
        self.num_fields = len(names)
        self._to_wire = [(attrgetter(n), c.to_wire) for n, c in zip(names, converters, strict=True)]
        self._read = [c.read for c in converters]

    def to_wire(self, obj: Any) -> list[Any]:
        """Returns the checked values of all fields but the token ids."""
        return [convert(get(obj)) for get, convert in self._to_wire]

    def read(self, reader: Reader, token_ids: tuple[int, ...] | None = None) -> Any:
        """Read the next fields into an object. Raises InvalidValueError if they do not fit."""
        args = [read(reader) for read in self._read]
        if self.token_field is not None:
            args.insert(self._token_index, token_ids)
        return self.cls(*args)


_struct_layouts: dict[type, Layout] = {}


def register_struct(cls: type) -> None:
    """Register cls as a field type; the struct decorator calls this."""
    layout = Layout(cls)
    if layout.token_field is not None:
        raise LocalProtocolError(f"{cls.__name__}: TokenIds belong in a message, not in a struct")
    _struct_layouts[cls] = layout


def struct_layout(cls: type) -> Layout:
    """Returns the layout of a struct class. Raises LocalProtocolError if it is not one."""
    try:
        return _struct_layouts[cls]
    except KeyError:
        raise LocalProtocolError(f"{cls.__name__} is not declared with @struct") from None


def unwrapped(hint: Any) -> tuple[Any, dict[type, Any]]:
    """Returns the type that a field's hint names, and the marks around it by their classes."""
    marks: dict[type, Any] = {}
    while True:
        if get_origin(hint) is Annotated:
            marks |= {type(mark): mark for mark in hint.__metadata__}
            hint = hint.__origin__
        elif isinstance(hint, NewType):
            hint = hint.__supertype__
        else:
            return hint, marks


def converter_for(hint: Any, where: str) -> Converter:
    """Compile one type hint. where: names the field in errors."""
    hint, marks = unwrapped(hint)
    if TokenIdsMarker in marks:
        raise LocalProtocolError(f"{where}: TokenIds cannot be nested")
    bounds: Range | None = marks.get(Range)
    max_len: int | None = marks[MaxLen].n if MaxLen in marks else None
    if hint is int:
        return _int(where, bounds)
    if hint is float:
        return _float(where, bounds)
    if hint is bool:
        return _scalar(_exactly(bool, where))
    if hint is str:
        return _scalar(_sized(str, MAX_STR_CHARS if max_len is None else max_len, where))
    if hint is bytes:
        return _scalar(_sized(bytes, MAX_BYTES_LEN if max_len is None else max_len, where))
    origin, args = get_origin(hint), get_args(hint)
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        cap = MAX_TUPLE_ITEMS if max_len is None else max_len
        return _tuple(converter_for(args[0], where), cap, where)
    if is_dataclass(hint) and hint in _struct_layouts:
        return _struct(_struct_layouts[hint], where)
    raise LocalProtocolError(f"{where}: {hint!r} cannot travel")


def _scalar(check: Convert, to_wire: Convert | None = None) -> Converter:
    return Converter(to_wire or check, lambda reader: check(reader.unpack()))


def _wrong_type(where: str, expected: str, value: Any) -> InvalidValueError:
    return InvalidValueError(f"{where}: expected {expected}, got {type(value).__name__}")


def _exactly(cls: type, where: str) -> Convert:
    def check(value: Any) -> Any:
        if type(value) is not cls:
            raise _wrong_type(where, cls.__name__, value)
        return value

    return check


def _int(where: str, bounds: Range | None) -> Converter:
    lo, hi = (INT_MIN, INT_MAX) if bounds is None else (bounds.lo, bounds.hi)

    def check(value: Any) -> Any:
        if type(value) is not int:
            raise _wrong_type(where, "int", value)
        if not lo <= value <= hi:
            raise InvalidValueError(f"{where}: outside {lo}..{hi}")
        return value

    return _scalar(check)


def _float(where: str, bounds: Range | None) -> Converter:
    lo, hi = (-math.inf, math.inf) if bounds is None else (bounds.lo, bounds.hi)

    def check(value: Any) -> Any:
        if type(value) is not float:
            raise _wrong_type(where, "float", value)
        if not (lo <= value <= hi and math.isfinite(value)):
            raise InvalidValueError(f"{where}: not finite or outside {lo}..{hi}")
        return value

    def to_wire(value: Any) -> Any:
        # Type checkers accept an int where a float is declared; the wire format does not.
        return check(float(value) if type(value) is int else value)

    return _scalar(check, to_wire)


def _sized(cls: type[Sized], cap: int, where: str) -> Convert:
    def check(value: Any) -> Any:
        if type(value) is not cls:
            raise _wrong_type(where, cls.__name__, value)
        if len(value) > cap:
            raise InvalidValueError(f"{where}: length {len(value)} above {cap}")
        return value

    return check


def _tuple(item: Converter, cap: int, where: str) -> Converter:
    check, item_out, item_in = _sized(tuple, cap, where), item.to_wire, item.read

    def read(reader: Reader) -> Any:
        num_items = reader.read_array_header()
        if num_items > cap:
            raise InvalidValueError(f"{where}: length {num_items} above {cap}")
        return tuple([item_in(reader) for _ in range(num_items)])

    return Converter(lambda value: [item_out(v) for v in check(value)], read)


def _struct(layout: Layout, where: str) -> Converter:
    check, num_fields = _exactly(layout.cls, where), layout.num_fields

    def read(reader: Reader) -> Any:
        found = reader.read_array_header()
        if found != num_fields:
            raise InvalidValueError(f"{where}: {found} fields, expected {num_fields}")
        return layout.read(reader)

    return Converter(lambda value: layout.to_wire(check(value)), read)
