"""The registry: a tag and a class belong together for ever."""

import pytest

from airdraft.mesh.codec import decode, encode
from airdraft.mesh.errors import LocalProtocolError
from airdraft.mesh.messages import MAX_PROFILE_BYTES, Hello, TokenIds, message, spec_of_tag
from tests.mesh.wire_examples import plain


def test_the_meshs_tags_never_change():
    names = [spec_of_tag(tag).layout.cls.__name__ for tag in range(1, 10)]
    assert names == [
        *("Hello", "Welcome", "Refuse", "Ping", "Pong", "Credit", "Bye"),
        *("EnrolRequest", "EnrolReply"),
    ]
    assert spec_of_tag(10) is None, "it belonged to a message that is gone"
    assert all(spec_of_tag(tag) is None for tag in range(11, 16)), "kept for the mesh"


def test_the_largest_profile_is_sent():
    hello = Hello("n" * 64, "target", 1, 1, b"x" * MAX_PROFILE_BYTES)
    assert decode(encode(hello)).message == hello


@pytest.mark.parametrize(
    ("declare", "reason"),
    [
        (lambda: message(4)(plain(field=int)), "belongs to Ping"),
        *((lambda tag=tag: message(tag)(plain(field=int)), "outside") for tag in (0, 256)),
        (lambda: message(238)(plain(field=TokenIds)), "go together"),
        (lambda: message(238, max_tokens=1)(plain(field=int)), "go together"),
        # No frame is above the limit of the transport.
        (lambda: message(238, max_bytes=2**20 + 1)(plain(field=int)), "at most"),
    ],
)
def test_a_declaration_that_is_wrong_is_refused_and_takes_no_tag(declare, reason):
    with pytest.raises(LocalProtocolError, match=reason):
        declare()
    assert spec_of_tag(238) is None
