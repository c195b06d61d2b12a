"""Converts frozen dataclasses of plain values to JSON and back, and to one another.

Fields with their default values are left out. Infinity, which JSON cannot represent, is "inf".
"""

from __future__ import annotations

import math
import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, NewType, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def as_object(value: Any) -> Any:
    """Convert a dataclass, tuple, set of texts, dict with text keys, number, text or None for
    json.dumps."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, tuple):
        return [as_object(item) for item in value]
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, dict):
        return {name: as_object(item) for name, item in value.items()}
    found = {}
    for name, (_, default) in _form(type(value)).items():
        item = getattr(value, name)
        if item != default:
            found[name] = as_object(item)
    return found


def from_object(cls: type[T], value: Any, where: str = "") -> T:
    """Convert the result of as_object back. Raises ValueError that names the field."""
    if not isinstance(value, dict):
        raise _wrong(where or cls.__name__, "an object")
    form = _form(cls)
    arguments = {}
    for name, (hint, default) in form.items():
        path = f"{where}.{name}" if where else name
        if name in value:
            arguments[name] = _read(hint, value[name], path)
        elif default is MISSING:
            raise ValueError(f"{path} is missing")
    if unknown := value.keys() - form.keys():
        raise ValueError(f"{where or cls.__name__} has no field {min(unknown)}")
    try:
        return cls(**arguments)
    except ValueError as error:
        raise ValueError(f"{where or cls.__name__}: {error}") from None


def _read(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, NewType):
        hint = hint.__supertype__
    if hint is float:
        if value == "inf" or (isinstance(value, int | float) and not isinstance(value, bool)):
            return float(value)
        raise _wrong(where, "a number")
    if hint in (int, str, bool):
        if type(value) is not hint:
            raise _wrong(where, f"of type {hint.__name__}")
        return value
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = next(arg for arg in args if arg is not types.NoneType)
        return None if value is None else _read(inner, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(where, "an object")
        return {name: _read(args[1], item, f"{where}.{name}") for name, item in value.items()}
    if origin in (tuple, frozenset):
        if not isinstance(value, list):
            raise _wrong(where, "a list")
        return origin(_read(args[0], item, f"{where}[{k}]") for k, item in enumerate(value))
    assert is_dataclass(hint), f"{where}: {hint!r} has no place in a record"
    return from_object(cast(type, hint), value, where)


def copied_from(source: object, cls: type[T], **others: Any) -> T:
    """Returns an object with the fields of the same names of another one, except for `others`."""
    same = {name: getattr(source, name) for name in _form(cls) if name not in others}
    return cls(**same, **others)


def _wrong(where: str, expected: str) -> ValueError:
    return ValueError(f"{where} is not {expected}")


_forms: dict[type, dict[str, tuple[Any, Any]]] = {}


def _form(cls: Any) -> dict[str, tuple[Any, Any]]:
    """Returns the type of each field of a class, and its default, or MISSING without one."""
    if cls not in _forms:
        hints = get_type_hints(cls)
        _forms[cls] = {field.name: (hints[field.name], field.default) for field in fields(cls)}
    return _forms[cls]
