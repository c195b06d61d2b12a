"""Long lists of token ids take little memory."""

from __future__ import annotations

import tracemalloc

from mesh.codec import decode, encode
from mesh.shared_numbers import shared
from nodes.messages import TokenizeReply

MANY = tuple(1000 + i % 30_000 for i in range(131_072))


def test_values_stay_what_they_are() -> None:
    for values in ((), (1, 2, 3), MANY, (*MANY, (1 << 32) - 1, 1 << 18, (1 << 18) - 1)):
        assert shared(values) == values


def test_a_message_of_the_most_token_ids_takes_a_megabyte() -> None:
    frames = encode(TokenizeReply(1, "", MANY))
    decode(frames)
    tracemalloc.start()
    try:
        kept = [decode(frames) for _ in range(4)]
        num_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(kept) == 4
    assert num_bytes / 4 < 1.2e6
