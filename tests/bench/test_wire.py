"""Bytes around a pass: what is counted, and that real messages stay within the design's bounds."""

from bench.wire import PassBytes, Sized, measure, pass_messages, table
from mesh.codec import encode

# What a message needs besides its tokens: a header, and some bytes for each of its streams.
HEADER_BYTES, STREAM_BYTES = 49, 16
TOKEN_BYTES, CHANCE_BYTES = 2, 1


def test_bytes_are_shared_out_among_guesses_and_committed_tokens() -> None:
    messages = dict.fromkeys(("GuessNotice", "CommitReply", "CommitNotice"), Sized(50, 120.0))
    one = PassBytes(2, 4, 0.8, messages)
    # A pass commits 1 + 0.8 + ... + 0.8^4 = 3.36 tokens of a stream.
    assert (one.num_guesses, one.num_committed) == (8, 6)
    # Guesses go to the coordinator and on to the target; the draft node hears what was committed.
    assert (one.drafting(), one.whole()) == (240.0, 480.0)
    # 9,000 bytes of probabilities to 30 of ours.
    assert "| 2 | 0.8 | 30.0 | 40.0 | 80.0 | 300 |" in table([one], 1_000)


def test_guesses_and_commits_take_few_bytes_a_token_and_a_stream() -> None:
    for count in (1, 4, 16):
        guesses, _, commits = pass_messages(count, 4, 0.8, 49_152)
        for message, num_bytes in (
            (guesses, 4 * count * (TOKEN_BYTES + CHANCE_BYTES)),
            (commits, 3 * count * TOKEN_BYTES),
        ):
            encoded = sum(map(len, encode(message, cluster="airdraft", epoch=1 << 61)))
            assert encoded <= num_bytes + STREAM_BYTES * count + HEADER_BYTES


async def test_what_is_around_a_message_is_counted_on_a_real_connection() -> None:
    (one,) = await measure([3], 2, 1_000, [0.8])
    assert list(one.messages) == ["GuessNotice", "CommitReply", "CommitNotice"]
    for message in one.messages.values():
        # CURVE and ZMTP: nonce, tag, flags and lengths of each frame.
        assert 40 <= message.on_link - message.encoded <= 120
