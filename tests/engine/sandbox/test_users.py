"""Strangers' texts and grammars: what is costly is refused, and the next is served."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodes.catalog import Catalog, default_cache_dir
from nodes.engine.grammar import GrammarError, Grammars
from nodes.engine.llama_abi import library, load_model
from nodes.engine.protocol import InvalidInputError
from nodes.engine.rules import Grammar
from nodes.engine.sandbox.process import GrammarCheck, SandboxedTokenizer
from nodes.engine.vocab import LlamaTokenizer
from tests.engine.sandbox.gguf_copies import copy_with

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

NUMBER = Grammar("json_schema", '{"type": "integer"}')
# A conversation chooses what the template does.
TEMPLATE = """
{%- if messages[0].content == "loop" %}
{%- for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}
{%- elif messages[0].content == "memory" %}
{%- set held = messages[0].role * 10 ** 9 %}{{ held | length }}
{%- elif messages[0].content == "day" %}{{ strftime_now("%d %B %Y") }}
{%- endif %}>{{ messages[0].content }}"""


class Bytes:
    """A vocabulary of single bytes, in which 0 ends a text."""

    num_vocab = 256
    eog_token_ids = frozenset({0})

    def piece(self, token_id: int) -> bytes:
        return bytes([token_id])


@pytest.fixture
def grammars() -> Iterator[Grammars]:
    check = GrammarCheck(Bytes(), Bytes())
    yield Grammars(Bytes(), Bytes(), check)
    check.close()


@pytest.mark.parametrize(
    "schema",
    [
        # The compiler would take gigabytes, and end the process for lack of them.
        '{"type": "integer", "multipleOf": 4999999}',
        # Each part is harmless, but their combination is not.
        '{"allOf": [{"type": "integer", "multipleOf": 9973}, {"multipleOf": 9967}]}',
        # Each of the many parts is harmless.
        json.dumps({"properties": {f"a{i}": {"multipleOf": 99_991 - i} for i in range(8)}}),
    ],
)
def test_grammars_that_take_too_much_are_refused_and_the_next_is_served(
    grammars: Grammars, schema: str
) -> None:
    for _ in range(2):
        with pytest.raises(GrammarError, match="the grammar takes") as failed:
            grammars.compile(Grammar("json_schema", schema))
        assert failed.value.is_request_bad
    assert grammars.begin(NUMBER).allowed().any()


def test_what_is_wrong_with_a_grammar_is_said_as_without_the_sandbox(grammars: Grammars) -> None:
    wrong = Grammar("gbnf", "root ::= (")
    with pytest.raises(GrammarError) as plain:
        Grammars(Bytes(), Bytes()).compile(wrong)
    with pytest.raises(GrammarError) as checked:
        grammars.compile(wrong)
    assert str(checked.value) == str(plain.value)


class Texts:
    """A tokenizer of a small model file with TEMPLATE, or another pre-tokenizer."""

    def __init__(self, path: Path) -> None:
        self._pointer = load_model(path, gpu_layers=0, repack=False, vocab_only=True)
        self.plain = LlamaTokenizer(self._pointer)
        self.sandboxed = SandboxedTokenizer(path, self.plain)

    def close(self) -> None:
        self.sandboxed.close()
        library().llama_model_free(self._pointer)


@pytest.fixture(scope="module")
def small_model() -> Path:
    return Catalog(default_cache_dir(os.environ)).ensure("smollm2-draft")


@pytest.fixture
def texts(small_model: Path, tmp_path: Path) -> Iterator[Texts]:
    path = tmp_path / "template.gguf"
    copy_with(small_model, path, "tokenizer.chat_template", TEMPLATE)
    made = Texts(path)
    yield made
    made.close()


@pytest.mark.model
def test_texts_are_read_as_without_the_sandbox(texts: Texts) -> None:
    told = [("user", "Where is <|im_end|> Lyon?"), ("assistant", "é\U0001f600\n" * 3000)]
    assert texts.sandboxed.encode_chat(told) == texts.plain.encode_chat(told)
    assert texts.sandboxed.encode("a b") == texts.plain.encode("a b")
    assert texts.sandboxed.piece(9) == texts.plain.piece(9)


@pytest.mark.model
@pytest.mark.parametrize(
    ("content", "reason"),
    [("loop", "takes too much time or memory to be read"), ("memory", "fails: MemoryError")],
)
def test_a_text_that_takes_too_much_is_refused_and_the_next_is_read(
    texts: Texts, content: str, reason: str
) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        texts.sandboxed.encode_chat([("user", content)])
    assert texts.sandboxed.encode_chat([("user", "hi")]) == texts.plain.encode(">hi")


@pytest.mark.model
def test_a_template_is_told_what_day_the_request_was_made_on(texts: Texts) -> None:
    day = texts.sandboxed.encode_chat([("user", "day")], date="2026-02-01")
    assert day == texts.plain.encode("01 February 2026>day")
    with pytest.raises(InvalidInputError, match="strftime_now"):
        texts.sandboxed.encode_chat([("user", "day")])


@pytest.mark.model
@pytest.mark.parametrize(("pre", "letter"), [("tekken", "a"), ("gpt-4o", "a"), ("falcon", "!")])
def test_a_long_word_costs_no_process(
    small_model: Path, tmp_path: Path, pre: str, letter: str
) -> None:
    """With some vocabularies libllama's regular expressions call themselves once a letter."""
    path = tmp_path / "other.gguf"
    copy_with(small_model, path, "tokenizer.ggml.pre", pre)
    texts = Texts(path)
    try:
        token_ids = texts.sandboxed.encode(letter * 60_000)
        assert b"".join(map(texts.sandboxed.piece, token_ids)) == letter.encode() * 60_000
    finally:
        texts.close()
