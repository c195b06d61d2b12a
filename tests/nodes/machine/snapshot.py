"""Everything that an object knows, as plain values that can be compared."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Set
from typing import Any

import numpy as np


def snapshot(thing: Any, leave_out: Set[str]) -> Any:
    """leave_out: names of attributes that do not count."""
    return _of(thing, leave_out, {})


def _of(thing: Any, leave_out: Set[str], seen: dict[int, tuple[int, Any]]) -> Any:
    if thing is None or isinstance(thing, bool | int | float | str | bytes | bytearray):
        return thing
    if isinstance(thing, np.ndarray):
        return thing.tolist()
    if id(thing) in seen:
        return f"<{seen[id(thing)][0]}>"
    # Kept, or what is made anew by being asked for would leave its id to the next one.
    seen[id(thing)] = len(seen), thing
    if isinstance(thing, Mapping):
        return [(_of(k, leave_out, seen), _of(v, leave_out, seen)) for k, v in thing.items()]
    if isinstance(thing, list | tuple | deque):
        return [_of(item, leave_out, seen) for item in thing]
    if isinstance(thing, Set):
        return sorted(map(repr, thing))
    known = {
        name: _of(getattr(thing, name), leave_out, seen)
        for name in _attributes(thing)
        if name not in leave_out and hasattr(thing, name)
    }
    return type(thing).__name__, known


def _attributes(thing: Any) -> list[str]:
    slots = [name for cls in type(thing).__mro__ for name in getattr(cls, "__slots__", ())]
    return [*slots, *getattr(thing, "__dict__", {})]
