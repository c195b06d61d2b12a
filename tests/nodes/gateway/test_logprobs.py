from __future__ import annotations

from nodes.gateway.answers import ScoredToken
from nodes.gateway.chat import chat_logprobs
from nodes.gateway.completions import CompletionLogprobs
from tests.nodes.gateway.fake_mesh import scored


def test_completions_have_lists_beside_each_other() -> None:
    found = CompletionLogprobs().of(
        [
            ScoredToken(scored("ab", 0.0), is_first=True),
            ScoredToken(scored("c", -2.0, ("d", -1.0))),
            ScoredToken(scored("é", -0.5, ("é", -0.5))),
            ScoredToken(scored("a", -3.0, ("a", -1.0))),
        ]
    )
    assert found == {
        "tokens": ["ab", "c", "é", "a"],
        "token_logprobs": [None, -2.0, -0.5, -3.0],
        # The one that was chosen is there, even where others were likelier. Of two tokens with one
        # text the likelier stands.
        "top_logprobs": [None, {"d": -1.0, "c": -2.0}, {"é": -0.5}, {"a": -1.0}],
        "text_offset": [0, 2, 3, 4],
    }


def test_tokens_that_are_parts_of_a_character() -> None:
    pieces = [ScoredToken(scored(piece, -1.0)) for piece in (b"\xe2\x82", b"\xac", b"x")]
    found = CompletionLogprobs().of(pieces)
    assert found["tokens"] == ["bytes:\\xe2\\x82", "bytes:\\xac", "x"]
    assert found["text_offset"] == [0, 0, 1]
    content = chat_logprobs(pieces)["content"]
    assert [entry["bytes"] for entry in content] == [[0xE2, 0x82], [0xAC], [0x78]]
    assert content[0]["token"] == "\ufffd"


def test_offsets_count_what_was_told_before() -> None:
    pieces = [ScoredToken(scored(piece, -1.0)) for piece in (b"ab", b"\xe2\x82", b"\xac", b"x")]
    whole = CompletionLogprobs().of(pieces)
    for number in range(5):
        later = CompletionLogprobs()
        later.skip(pieces[:number])
        found = later.of(pieces[number:])
        assert found == {name: values[number:] for name, values in whole.items()}
