"""Which declarations are refused, always when the module is imported."""

from dataclasses import dataclass, field
from typing import Annotated

import pytest

from mesh.errors import LocalProtocolError
from mesh.messages import MaxLen, Range, TokenIds, struct
from mesh.schema import InvalidValueError, Layout, converter_for, struct_layout
from tests.mesh.wire_examples import Everything, Link


@pytest.mark.parametrize(
    "hint",
    [
        dict[str, int],
        list[int],
        tuple[int, str],
        tuple,
        object,
        int | str,
        int | str | None,
        complex,
        Everything,
        TokenIds | None,
        tuple[TokenIds, ...],
        Annotated[int, Range(0, 2**64)],
        Annotated[int, Range(-(2**64), 0)],
        Annotated[int, Range(2, 1)],
    ],
)
def test_types_without_a_place_on_the_wire(hint):
    with pytest.raises(LocalProtocolError, match=r"Some\.field"):
        converter_for(hint, "Some.field")


def test_token_ids_belong_in_messages_once():
    with pytest.raises(LocalProtocolError, match="not in a struct"):

        @struct
        class Nested:
            ids: TokenIds

    with pytest.raises(LocalProtocolError, match="second"):

        @struct
        class Twice:
            a: TokenIds
            b: TokenIds


def test_every_field_must_be_in_init():
    with pytest.raises(LocalProtocolError, match="init=False"):

        @struct
        @dataclass(frozen=True, slots=True)
        class Hidden:
            a: int = field(default=0, init=False)


@pytest.mark.parametrize("options", [{"frozen": True}, {"slots": True}])
def test_structs_are_frozen_and_slotted(options):
    with pytest.raises(LocalProtocolError, match="frozen, slotted"):

        @struct
        @dataclass(**options)
        class Loose:
            a: int


def test_containers_are_bounded_by_the_layout():
    layout = Layout(Everything)
    assert layout.token_field == "token_ids"
    assert layout.max_str_bytes == 4 * 1024
    assert layout.max_bin_len == 8
    assert struct_layout(Link).num_fields == 3


def test_errors_name_the_field_and_hide_the_value():
    converter = converter_for(Annotated[str, MaxLen(3)], "Bye.reason")
    with pytest.raises(InvalidValueError, match=r"Bye\.reason: length 6 above 3"):
        converter.to_wire("secret")
