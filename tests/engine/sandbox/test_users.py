"""Strangers' texts and grammars: what is costly is refused, and the next is served."""

import contextlib
import json
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from airdraft.nodes.catalog import Catalog, default_cache_dir, gguf
from airdraft.nodes.engine.grammar import GrammarError, Grammars
from airdraft.nodes.engine.protocol import InvalidInputError
from airdraft.nodes.engine.rules import Grammar
from airdraft.nodes.engine.sandbox.process import GrammarCheck, SandboxedTokenizer
from airdraft.nodes.engine.vocab import LlamaTokenizer
from tests.engine.llama_texts import vocabulary_of
from tests.engine.sandbox.busy import LIMIT_S, judged

_STRING = 8


def copy_with(source: Path, to: Path, key: str, text: str) -> None:
    """Write the vocabulary of a model file to `to`, with `text` as the value of `key`."""
    data, wanted = gguf.vocabulary_of(source), key.encode() + struct.pack("<I", _STRING)
    at = data.index(wanted) + len(wanted)
    (old_bytes,) = struct.unpack_from("<Q", data, at)
    new = text.encode()
    to.write_bytes(data[:at] + struct.pack("<Q", len(new)) + new + data[at + 8 + old_bytes :])


pytestmark = [pytest.mark.slow, pytest.mark.timeout(LIMIT_S)]

NUMBER = Grammar("json_schema", '{"type": "integer"}')
# A conversation chooses what the template does.
TEMPLATE = """
{%- if messages[0].content == "loop" %}
{%- for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}
{%- elif messages[0].content == "memory" %}
{%- set held = messages[0].role * 10 ** 9 %}{{ held | length }}
{%- elif messages[0].content == "day" %}{{ strftime_now("%d %B %Y") }}
{%- endif %}>{{ messages[0].content }}"""


# A vocabulary of single bytes, in which 0 ends a text.
BYTES = (lambda token_id: bytes([token_id])), 256, frozenset({0})


@pytest.fixture
def grammars() -> Iterator[Grammars]:
    check = GrammarCheck(*BYTES)
    yield Grammars(*BYTES, check)
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
            judged(lambda: grammars.compile(Grammar("json_schema", schema)))
        assert failed.value.is_request_bad
    assert grammars.begin(NUMBER).allowed().any()


def test_what_is_wrong_with_a_grammar_is_said_as_without_the_sandbox(grammars: Grammars) -> None:
    wrong = Grammar("gbnf", "root ::= (")
    with pytest.raises(GrammarError) as plain:
        Grammars(*BYTES).compile(wrong)
    with pytest.raises(GrammarError) as checked:
        grammars.compile(wrong)
    assert str(checked.value) == str(plain.value)


class Texts(NamedTuple):
    """A tokenizer of a small model file with TEMPLATE, or another pre-tokenizer."""

    plain: LlamaTokenizer
    sandboxed: SandboxedTokenizer


@contextlib.contextmanager
def texts_with(path: Path, key: str, value: str) -> Iterator[Texts]:
    copy_with(Catalog(default_cache_dir(os.environ)).ensure("smollm2-draft"), path, key, value)
    with (
        vocabulary_of(path) as plain,
        contextlib.closing(SandboxedTokenizer(path, plain)) as sandboxed,
    ):
        yield Texts(plain, sandboxed)


@pytest.fixture
def texts(tmp_path: Path) -> Iterator[Texts]:
    with texts_with(tmp_path / "template.gguf", "tokenizer.chat_template", TEMPLATE) as made:
        yield made


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
        judged(lambda: texts.sandboxed.encode_chat([("user", content)]))
    assert judged(lambda: texts.sandboxed.encode_chat([("user", "hi")])) == texts.plain.encode(
        ">hi"
    )


@pytest.mark.model
def test_a_template_is_told_what_day_the_request_was_made_on(texts: Texts) -> None:
    day = texts.sandboxed.encode_chat([("user", "day")], date="2026-02-01")
    assert day == texts.plain.encode("01 February 2026>day")
    with pytest.raises(InvalidInputError, match="strftime_now"):
        texts.sandboxed.encode_chat([("user", "day")])


@pytest.mark.model
@pytest.mark.parametrize(("pre", "letter"), [("tekken", "a"), ("gpt-4o", "a"), ("falcon", "!")])
def test_a_long_word_costs_no_process(tmp_path: Path, pre: str, letter: str) -> None:
    """With some vocabularies libllama's regular expressions call themselves once a letter."""
    with texts_with(tmp_path / "other.gguf", "tokenizer.ggml.pre", pre) as texts:
        token_ids = texts.sandboxed.encode(letter * 60_000)
        assert b"".join(map(texts.sandboxed.piece, token_ids)) == letter.encode() * 60_000


@pytest.mark.model
@pytest.mark.parametrize(
    "answer",
    [{"token_ids": [10**9]}, {"token_ids": [-1]}, {"token_ids": [1.5]}, {"token_ids": "1"}],
)
def test_no_token_id_outside_the_vocabulary_comes_from_a_sandbox(
    texts: Texts, monkeypatch: pytest.MonkeyPatch, answer: dict[str, list[float]]
) -> None:
    """Whoever took it over could otherwise end the node with one."""
    ready = json.dumps({"is_filtered": True})
    script = f"input(); print('{ready}', flush=True); input(); print('{json.dumps(answer)}')"
    monkeypatch.setattr(
        "airdraft.nodes.engine.sandbox.process._COMMAND", (sys.executable, "-c", script)
    )
    with pytest.raises(InvalidInputError, match="takes too much time or memory to be read"):
        texts.sandboxed.encode("hi")


def test_a_node_translates_no_grammar_itself(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python code does it, and all that the node's other threads do in Python would wait."""
    monkeypatch.setattr(
        "airdraft.nodes.engine.grammar.lark_of", lambda _: pytest.fail("it translates")
    )
    letters = Grammar("gbnf", 'root ::= [a-c] "d"')
    assert np.flatnonzero(grammars.begin(letters).allowed()).tolist() == [*b"abc"]
    recursive = Grammar("gbnf", "root ::= " + " ".join(["[a-z]*"] * 300))
    with pytest.raises(GrammarError, match="a token takes too much work"):
        grammars.compile(recursive)
