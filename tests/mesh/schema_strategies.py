"""Hypothesis strategies made from the type hints of messages and structs."""

import dataclasses
from typing import Annotated, NewType, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from mesh.schema import INT_MAX, INT_MIN, TOKEN_IDS, MaxLen, Range

MAX_EXAMPLE_LEN = 40


def instances(cls):
    """Any valid instance of a message or struct class."""
    hints = get_type_hints(cls, include_extras=True)
    names = [f.name for f in dataclasses.fields(cls)]
    return st.builds(cls, **{name: values(hints[name]) for name in names})


def values(hint):
    bounds, max_len = None, MAX_EXAMPLE_LEN
    while True:
        if get_origin(hint) is Annotated:
            if TOKEN_IDS in hint.__metadata__:
                ids = st.integers(0, 2**16 - 1) | st.integers(0, 2**32 - 1)
                return st.lists(ids, max_size=4).map(tuple)
            bounds = next((e for e in hint.__metadata__ if isinstance(e, Range)), bounds)
            caps = [e.n for e in hint.__metadata__ if isinstance(e, MaxLen)]
            max_len = min([max_len, *caps])
            hint = hint.__origin__
        elif isinstance(hint, NewType):
            hint = hint.__supertype__
        else:
            break
    if hint is int:
        lo, hi = (INT_MIN, INT_MAX) if bounds is None else (bounds.lo, bounds.hi)
        return st.integers(lo, hi)
    if hint is float:
        lo, hi = (None, None) if bounds is None else (bounds.lo, bounds.hi)
        return st.floats(lo, hi, allow_nan=False, allow_infinity=False)
    if hint is bool:
        return st.booleans()
    if hint is str:
        return st.text(max_size=max_len)
    if hint is bytes:
        return st.binary(max_size=max_len)
    args = get_args(hint)
    if get_origin(hint) is tuple:
        return st.lists(values(args[0]), max_size=min(max_len, 5)).map(tuple)
    return instances(hint)
