"""The registry: a tag and a class belong together for ever."""

import pytest

from mesh.codec import decode, encode
from mesh.errors import LocalProtocolError
from mesh.messages import MAX_PROFILE_BYTES, Hello, Ping, TokenIds, message, spec_of_tag


def test_the_meshs_tags_never_change():
    names = {tag: spec_of_tag(tag).layout.cls.__name__ for tag in range(1, 11)}
    assert names == {
        1: "Hello",
        2: "Welcome",
        3: "Refuse",
        4: "Ping",
        5: "Pong",
        6: "Credit",
        7: "Bye",
        8: "EnrolRequest",
        9: "EnrolReply",
        10: "KeyNotice",
    }
    assert all(spec_of_tag(tag) is None for tag in range(11, 16)), "kept for the mesh"


def test_the_largest_profile_is_sent():
    hello = Hello("n" * 64, "target", 1, 1, b"x" * MAX_PROFILE_BYTES)
    assert decode(encode(hello)).message == hello


def test_a_tag_is_taken_once():
    with pytest.raises(LocalProtocolError, match="belongs to Ping"):

        @message(4)
        class Other:
            a: int


def test_a_class_has_one_tag():
    with pytest.raises(LocalProtocolError, match="already has a tag"):
        message(239)(Ping)
    assert spec_of_tag(239) is None


@pytest.mark.parametrize("tag", [0, -1, 256])
def test_a_tag_is_a_byte(tag):
    with pytest.raises(LocalProtocolError, match="outside"):
        message(tag)(Ping)


def test_max_tokens_and_token_ids_go_together():
    with pytest.raises(LocalProtocolError, match="go together"):

        @message(238)
        class Unbounded:
            ids: TokenIds

    with pytest.raises(LocalProtocolError, match="go together"):

        @message(238, max_tokens=1)
        class Tokenless:
            a: int


def test_no_frame_is_above_the_transports_limit():
    with pytest.raises(LocalProtocolError, match="at most"):

        @message(238, max_bytes=2**20 + 1)
        class Huge:
            a: int
