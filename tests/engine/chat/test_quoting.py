from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.engine.chat.quoting import ControlTexts, Piece, Quotes, check_role
from nodes.engine.protocol import InvalidInputError

TEXTS = ("<|end|>", "<|end", "<s>", "[X]", "")
CONTROLS = ControlTexts(TEXTS)
contents = st.lists(
    st.sampled_from(["<", "|", "end", "<|end", "|>", "<s>", "s", ">", "[", "X]", " ", "\n", "a"]),
    max_size=12,
).map("".join)


@pytest.mark.parametrize("text", ["", "Where is Lyon?", "a < b > c", "<S>", "> [quoted]"])
def test_a_content_without_control_texts_is_not_altered(text: str) -> None:
    assert Quotes(CONTROLS).quote(text) == text


def test_the_longest_text_is_found_and_stands_apart() -> None:
    quotes = Quotes(CONTROLS)
    pieces = quotes.split("<s>" + quotes.quote("a<|end|><s> b") + "<|end|>")
    assert pieces == [
        Piece("<s>a", False),
        Piece("<|end|>", True),
        Piece("<s>", True),
        Piece(" b<|end|>", False),
    ]


@pytest.mark.parametrize("tail", ["<|en", "<", "[", "<|en \n"])
def test_what_the_template_puts_behind_a_content_completes_nothing(tail: str) -> None:
    quotes = Quotes(CONTROLS)
    pieces = quotes.split(quotes.quote("a" + tail).rstrip() + "d|>")
    assert pieces == [Piece("a", False), Piece(tail.rstrip(), True), Piece("d|>", False)]


def test_marks_of_one_conversation_mean_nothing_in_another() -> None:
    mark = Quotes(CONTROLS).quote("<s>")
    assert Quotes(CONTROLS).split(mark) == [Piece(mark, False)]


def test_control_texts_are_found_up_to_the_end_and_there_may_be_none() -> None:
    assert ControlTexts(["<s>", "<|end|>"]).spans("a<s>") == [(1, 4)]
    assert ControlTexts([]).spans("<s> a") == []


@given(st.lists(contents, min_size=1, max_size=4), st.sampled_from(["", "\n", "!"]))
def test_contents_come_through_whole_and_form_no_control_text(
    texts: list[str], between: str
) -> None:
    quotes = Quotes(CONTROLS)
    pieces = quotes.split(between.join(quotes.quote(text) for text in texts))
    assert "".join(p.text for p in pieces) == between.join(texts)
    parsed = [p.text for p in pieces if not p.is_plain]
    assert not [t for t in TEXTS if t and any(t in text for text in parsed)]


@pytest.mark.parametrize("role", ["", "a b", "user<s>", "x" * 65, "rôle", "user\n"])
def test_what_is_no_role(role: str) -> None:
    with pytest.raises(InvalidInputError, match="letters, digits"):
        check_role(role)


def test_roles_of_templates() -> None:
    for role in ("system", "user", "assistant", "tool", "ipython", "model-2", "developer"):
        check_role(role)
