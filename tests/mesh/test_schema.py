"""Which declarations are refused, always when the module is imported."""

import pytest

from airdraft.mesh.errors import LocalProtocolError
from airdraft.mesh.messages import TokenIds, struct
from airdraft.mesh.schema import converter_for
from tests.mesh.wire_examples import Everything, plain


@pytest.mark.parametrize(
    ("declared", "reason"),
    [(plain(ids=TokenIds), "not in a struct"), (plain(a=TokenIds, b=TokenIds), "second")],
)
def test_token_ids_have_one_place_in_a_message(declared, reason):
    with pytest.raises(LocalProtocolError, match=reason):
        struct(declared)


@pytest.mark.parametrize(
    "hint",
    [
        *(dict[str, int], list[int], tuple[int, str], tuple, tuple[TokenIds, ...]),
        *(object, int | str, int | None, complex, Everything),
    ],
)
def test_types_without_a_place_on_the_wire(hint):
    with pytest.raises(LocalProtocolError, match=r"Some\.field"):
        converter_for(hint, "Some.field")
