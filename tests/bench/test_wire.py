"""Bytes of a round: what is counted, and that the bounds of the design hold for real messages."""

from __future__ import annotations

from bench.wire import RoundBytes, Sized, measure, round_messages, table
from mesh.codec import encode


def test_bytes_are_shared_out_among_guesses_and_committed_tokens() -> None:
    messages = tuple(
        Sized(name, 2, 50, 120.0) for name in ("DraftRequest", "DraftReply", "VerifyRequest")
    )
    one = RoundBytes(2, 4, 0.8, messages)
    # A round commits 1 + 0.8 + ... + 0.8^4 = 3.36 tokens a stream.
    assert (one.num_guesses, one.num_committed) == (8, 6)
    assert (one.drafting(), one.whole()) == (240.0, 360.0)
    text = table([one], 1_000)
    assert "| 2 | DraftReply | 50 | 120 | 15.0 |" in text
    # 9,000 bytes of probabilities to 30 of ours.
    assert "| 2 | 0.8 | 30.0 | 40.0 | 60.0 | 300 |" in text


def test_guesses_take_four_bytes_and_a_batch_a_header() -> None:
    """The design's bound, but for a byte: 4 a guess and 48 a batch."""
    for count in (1, 4, 16):
        _, reply, verify, _ = round_messages(count, 4, 0.8, 49_152)
        for message in (reply, verify):
            assert sum(map(len, encode(message, cluster="airdraft", epoch=1 << 61))) <= (
                4 * 4 * count + 49
            )


async def test_what_is_around_a_message_is_counted_on_a_real_connection() -> None:
    (one,) = await measure([3], 2, 1_000, [0.8])
    assert [m.name for m in one.messages] == [
        "DraftRequest",
        "DraftReply",
        "VerifyRequest",
        "CommitReply",
    ]
    for message in one.messages:
        # CURVE and ZMTP: nonce, tag, flags and lengths of each frame.
        assert 40 <= message.on_link - message.encoded <= 120
