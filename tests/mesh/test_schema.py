"""Which declarations are refused, always when the module is imported."""

from dataclasses import dataclass, field, make_dataclass
from typing import Annotated

import pytest

from mesh.errors import LocalProtocolError
from mesh.messages import Range, TokenIds, struct
from mesh.schema import converter_for
from tests.mesh.wire_examples import FROZEN, Everything, plain


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (plain(ids=TokenIds), "not in a struct"),
        (plain(a=TokenIds, b=TokenIds), "second"),
        (make_dataclass("Hidden", [("a", int, field(init=False))], **FROZEN), "init=False"),
        (dataclass(frozen=True)(plain(a=int)), "frozen, slotted"),
        (dataclass(slots=True)(plain(a=int)), "frozen, slotted"),
    ],
)
def test_structs_are_frozen_slotted_and_without_token_ids(declared, reason):
    with pytest.raises(LocalProtocolError, match=reason):
        struct(declared)


@pytest.mark.parametrize(
    "hint",
    [
        *(dict[str, int], list[int], tuple[int, str], tuple, tuple[TokenIds, ...]),
        *(object, int | str, int | None, complex, Everything),
        *(Annotated[int, Range(0, 2**64)], Annotated[int, Range(-(2**64), 0)]),
        Annotated[int, Range(2, 1)],
    ],
)
def test_types_without_a_place_on_the_wire(hint):
    with pytest.raises(LocalProtocolError, match=r"Some\.field"):
        converter_for(hint, "Some.field")
