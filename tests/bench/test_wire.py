"""Bytes around a pass: what is counted, and that real messages stay within the design's bounds."""

from airdraft.mesh.codec import encode
from bench.wire import measure, pass_messages, table

# What a message needs besides its tokens: a header, and some bytes for each of its streams.
HEADER_BYTES, STREAM_BYTES = 49, 16
TOKEN_BYTES, CHANCE_BYTES = 2, 1


def test_the_table_has_the_middle_acceptance_and_the_range_of_a_guess() -> None:
    sizes = [dict.fromkeys(("GuessNotice", "CommitReply", "CommitNotice"), s) for s in (40, 60, 80)]
    # Guesses go to the coordinator, and the draft node hears what was committed.
    assert table({2: sizes}, 4).splitlines()[-1] == "| 2 | 60 | 60 | 60 | 10.0 to 20.0 |"


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
    ((sizes,),) = (await measure([3], 2, 1_000, [0.8])).values()
    for message in pass_messages(3, 2, 0.8, 1_000):
        encoded = sum(map(len, encode(message, cluster="airdraft", epoch=1 << 31)))
        # CURVE and ZMTP: nonce, tag, flags and lengths of each frame.
        assert 40 <= sizes[type(message).__name__] - encoded <= 120
