"""What the parser takes, and how much of it at a time. Whole connections are in test_connection."""

import itertools

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.gateway.connections.parser import Parser

HEAD = b"POST / HTTP/1.1\r\nhost: a\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
NEVER = (h11.NEED_DATA, h11.PAUSED)
# More than the square of the header's 16 KiB would be noticed as a test that takes minutes.
LARGE = 1 << 18


def parsed(parser: Parser, data: bytes = b"") -> list[h11.Event]:
    """The events of one turn."""
    if data:
        parser.receive_data(data)
    parser.begin_turn()
    found = []
    while (event := parser.next_event()) not in NEVER:
        found.append(event)
    return found


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def body_of(events: list[h11.Event]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, h11.Data))


def test_a_turn_parses_a_little_and_the_next_ones_the_rest() -> None:
    parser = Parser(16_384)
    parsed(parser, CHUNKED)
    parser.is_held = False
    parser.receive_data(chunk(b"a") * 500 + chunk(b""))
    turns = [parsed(parser)]
    while parser.is_behind:
        turns.append(parsed(parser))
    assert len(turns) > 5
    assert max(len(turn) for turn in turns) <= 64
    assert b"".join(body_of(turn) for turn in turns) == b"a" * 500
    assert isinstance(turns[-1][-1], h11.EndOfMessage)


@pytest.mark.parametrize(
    ("framing", "body"),
    [(b"content-length: 3\r\n\r\n", b"abc"), (CHUNKED[len(HEAD) :], chunk(b"abc") + chunk(b""))],
)
def test_a_body_is_not_parsed_until_it_is_asked_for(framing: bytes, body: bytes) -> None:
    parser = Parser(16_384)
    assert [type(event) for event in parsed(parser, HEAD + framing + body)] == [h11.Request]
    assert parser.is_held
    assert parser.is_behind
    assert parsed(parser) == []
    parser.is_held = False
    assert body_of(parsed(parser)) == b"abc"
    assert parser.is_request_whole


@pytest.mark.parametrize("framing", [b"\r\n", b"content-length: 0\r\n\r\n"])
def test_a_request_without_a_body_is_whole_at_once(framing: bytes) -> None:
    parser = Parser(16_384)
    parsed(parser, HEAD + framing)
    assert parser.is_request_whole
    assert not parser.is_held


REFUSED = [
    (b"GET /" + b"%ff" * 5000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", "request line"),
    (b"GET /" + b"%ff" * 5000, "request line"),
    (HEAD + b"a:\r\n" * 200 + b"\r\n", "more than 128 headers"),
    # It is not waited for the end of them.
    (HEAD + b"a:\r\n" * 200, "more than 128 headers"),
    *(
        (HEAD + b"a:" + b" " * LARGE + odd + b"b\r\n\r\n", "control character")
        for odd in (b"\0", b"\x0b", b"\x0c", b"\r", b"\n")
    ),
    (HEAD + b"a:" + b" " * LARGE + b"\r\r\n\r\n", "control character"),
    (HEAD.replace(b"\r\n", b"\n") + b"\n", "control character"),
    (HEAD + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", "Transfer-Encoding"),
    (CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0"), "Transfer-Encoding"),
    (CHUNKED + b"1;" + b" " * LARGE + b"\n\r\na\r\n", "before a chunk"),
    (CHUNKED + b"1;" + b"x" * 300, "before a chunk"),
    (CHUNKED + chunk(b"a") + b"1;" + b"x" * 300 + b"\r\na\r\n", "before a chunk"),
    (CHUNKED + b"0\r\na:" + b" " * LARGE + b"\0\r\n\r\n", "control character"),
    (CHUNKED + b"000;x\r\n" + b"a:\r\n" * 200 + b"\r\n", "more than 128 headers"),
]


@pytest.mark.parametrize(("data", "reason"), REFUSED)
@pytest.mark.parametrize("piece_bytes", [10_000, 1 << 30])
def test_what_would_cost_much_is_refused_before_it_does(
    data: bytes, reason: str, piece_bytes: int
) -> None:
    parser = Parser(LARGE * 2)

    def run() -> None:
        for start in range(0, len(data), piece_bytes):
            parsed(parser, data[start : start + piece_bytes])
            parser.is_held = False
        parsed(parser)

    with pytest.raises(h11.RemoteProtocolError):
        run()
    assert reason in parser.refusal


def test_a_body_may_not_come_in_too_many_small_pieces() -> None:
    parser = Parser(16_384)
    parsed(parser, CHUNKED)
    parser.is_held = False
    for _ in range(1024):
        parsed(parser, chunk(b"a"))
    with pytest.raises(h11.RemoteProtocolError):
        parsed(parser, chunk(b"a") * 20)
    assert "too many small pieces" in parser.refusal


def test_a_large_body_in_pieces_of_fair_size_is_taken() -> None:
    parser = Parser(16_384)
    parsed(parser, CHUNKED)
    parser.is_held = False
    for _ in range(3000):
        assert body_of(parsed(parser, chunk(b"a" * 100))) == b"a" * 100
    parsed(parser, b"0;last=1\r\nsum: 7\r\n\r\n")
    assert parser.is_request_whole


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=20),
    extension=st.sampled_from([b"", b";a", b"; b=c"]),
    trailers=st.sampled_from([b"", b"a: b\r\n", b"a: b\r\nc: d\r\n"]),
    cuts=st.lists(st.integers(0, 1200), max_size=12),
)
def test_wherever_the_input_is_cut_the_body_is_the_same(
    chunks: list[bytes], extension: bytes, trailers: bytes, cuts: list[int]
) -> None:
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(data), extension, data) for data in chunks)
    data = CHUNKED + body + b"0\r\n" + trailers + b"\r\n"
    parser, found = Parser(16_384), list[h11.Event]()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in itertools.pairwise(places):
        found += parsed(parser, data[start:end])
        parser.is_held = False
    found += parsed(parser)
    assert body_of(found) == b"".join(chunks)
    assert parser.is_request_whole
    assert parser.refusal == ""


def test_the_next_request_is_read_as_the_first_was() -> None:
    parser = Parser(16_384)
    for _ in range(3):
        parsed(parser, CHUNKED)
        parser.is_held = False
        parsed(parser, chunk(b"\n" * 400) + chunk(b"") + b"GET /")
        assert parser.is_request_whole
        for event in (h11.Response(status_code=200, headers=[]), h11.EndOfMessage()):
            parser.send(event)
        parser.start_next_cycle()
        assert parsed(parser) == []
        assert len(parsed(parser, b" HTTP/1.1\r\nhost: a\r\n\r\n")) == 2
        for event in (h11.Response(status_code=200, headers=[]), h11.EndOfMessage()):
            parser.send(event)
        parser.start_next_cycle()
