"""Grammars over a small vocabulary whose pieces can be looked at."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from airdraft.nodes.engine.grammar import Checked, GrammarError, Grammars, GrammarState, lark_of
from airdraft.nodes.engine.rules import Grammar

# Two end tokens, a control token, and bytes alone and together.
PIECES = [b"", b"", b"", *(bytes([b]) for b in range(1, 128)), b'{"', b'":', b'"a"', b"ab", b"abc"]
# End tokens have text, which must not count.
SPELLING = [b"a", b"a", *PIECES[2:]].__getitem__
WORDS = SPELLING, len(PIECES), frozenset({0, 1})


def gbnf(text: str) -> Grammar:
    return Grammar("gbnf", text)


def begin(grammar: Grammar) -> GrammarState:
    return Grammars(*WORDS).begin(grammar)


def pieces(state: GrammarState) -> set[bytes]:
    """What may come next; b"" for the end."""
    allowed = np.flatnonzero(state.allowed())
    assert 2 not in allowed
    assert (0 in allowed) == (1 in allowed)
    return {PIECES[i] for i in allowed}


def push(state: GrammarState, *texts: bytes) -> None:
    for text in texts:
        state.push(PIECES.index(text) if text else 0)


def test_every_spelling_of_what_may_come_is_allowed_and_nothing_else() -> None:
    grammars = Grammars(*WORDS)
    state, other = (grammars.begin(gbnf('root ::= "abc" | "b"')) for _ in range(2))
    assert pieces(state) == {b"a", b"ab", b"abc", b"b"}
    push(state, b"a")
    assert pieces(state) == {b"b"}
    # States of one grammar know nothing of each other.
    assert pieces(other) == {b"a", b"ab", b"abc", b"b"}
    with pytest.raises(GrammarError, match="the grammar cannot go on: Parser Error"):
        push(state, b"c")


def test_threads_share_them() -> None:
    """A node's engine begins texts while another thread compiles what is asked next."""

    def refuse(grammar: Grammar) -> Checked:
        raise GrammarError(f"refused: {grammar.text}")

    grammars = Grammars(*WORDS, refuse)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            for number in range(2_000):
                wanted = gbnf(f"{number}"), gbnf(f"{number // 2}")
                for done in [pool.submit(grammars.compile, each) for each in wanted]:
                    with pytest.raises(GrammarError, match="refused"):
                        done.result()
    finally:
        sys.setswitchinterval(interval)


def test_the_end_is_allowed_where_the_text_may_end_and_alone_where_it_must() -> None:
    state = begin(gbnf('root ::= "b" "c"?'))
    assert pieces(state) == {b"b"}
    push(state, b"b")
    assert pieces(state) == {b"c", b""}
    push(state, b"c")
    assert pieces(state) == {b""}
    push(state, b"")
    assert pieces(state) == {b""}
    assert pieces(begin(gbnf('root ::= ""'))) == {b""}


@pytest.mark.parametrize("num_after_end", [0, 1, 3])
def test_tokens_can_be_taken_back_across_the_end(num_after_end: int) -> None:
    state = begin(gbnf('root ::= [ab] [cd] "e"'))
    push(state, b"a", b"c", b"e", *[b""] * num_after_end)
    state.take_back(2 + num_after_end)
    assert pieces(state) == {b"c", b"d"}
    push(state, b"d")
    assert pieces(state) == {b"e"}
    state.take_back(0)
    assert pieces(state) == {b"e"}


def test_a_json_schema_says_what_the_text_is_and_bounds_its_whitespace() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    state = begin(Grammar("json_schema", json.dumps({**schema, "additionalProperties": False})))
    assert pieces(state) == {b"{", b'{"'}
    push(state, b"{", b" ")
    # One blank is enough: a model can go on with them for ever.
    assert pieces(state) == {b'"', b'"a"'}
    push(state, b'"a"', b":", b"2")
    assert pieces(state) == {b"}", b" ", b"\n"}
    push(state, b"}")
    assert pieces(state) == {b""}
    # A schema cannot loosen the whitespace by itself.
    state = begin(Grammar("json_schema", '{"type": "array", "x-guidance": {"lenient": true}}'))
    push(state, b"[", b" ")
    assert b" " not in pieces(state)


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (gbnf("root ::= ("), r"the grammar is not valid: Expected '\)' at line 1"),
        (gbnf("root ::= other"), "the grammar is not valid: Rule 'other' not found"),
        (gbnf("rot ::= 'a'"), "the grammar is not valid"),
        # Another notation, with which more could be said.
        (gbnf("start: /a/"), "the grammar is not valid: Expected ::="),
        (gbnf("root ::= " + "(" * 10_000), "the grammar is not valid: maximum recursion depth"),
        (gbnf("root ::= root"), "the grammar cannot go on: no token of the model's vocabulary"),
        (gbnf("root ::= [à]"), "the grammar cannot go on: no token of the model's vocabulary"),
        (gbnf("a ::= " + "b" * 20_000), "the grammar has 20006 characters, limit 16384"),
        (gbnf("a::=b\n" * 501), "the grammar has 501 rules, limit 500"),
        (Grammar("json_schema", "{"), "the JSON schema is not JSON: Expecting property name"),
        (Grammar("json_schema", '[{"a":' * 9000), "the JSON schema is not JSON: maximum"),
        (Grammar("json_schema", "[]"), "the JSON schema is not an object"),
        (Grammar("json_schema", '{"type": "foo"}'), "the grammar is not valid: Invalid type: foo$"),
        (
            Grammar("json_schema", '{"type": "string", "pattern": "(?!b)"}'),
            "the grammar is not valid: .*look-ahead and look-behind, is not supported",
        ),
    ],
)
def test_what_is_no_grammar_is_told_in_one_line_and_again_without_another_try(
    grammar: Grammar, reason: str
) -> None:
    grammars = Grammars(*WORDS)
    for _ in range(2):
        with pytest.raises(GrammarError, match=reason) as failed:
            grammars.compile(grammar)
        assert failed.value.is_request_bad
        assert "\n" not in str(failed.value)
        assert len(str(failed.value)) < 400
    assert grammars.knows(grammar)


def test_the_work_of_a_token_is_bounded() -> None:
    names = {f"f{i}": {"type": "string", "pattern": "^(a|b){0,50}$"} for i in range(700)}
    grammar = Grammar("json_schema", json.dumps({"type": "object", "properties": names}))
    reason = (
        r"^the grammar cannot go on: a token takes too much work: .* fewer optional properties "
    )
    # It is refused where grammars are checked, because its second token cannot come.
    with pytest.raises(GrammarError, match=reason):
        Grammars(*WORDS).compile(grammar)


def test_a_rule_that_calls_itself_twice_is_given_up_at_the_same_token_everywhere() -> None:
    def num_tokens() -> int:
        state = begin(gbnf('root ::= s\ns ::= s s | "a"'))
        for count in range(10_000):
            try:
                push(state, b"a")
            except GrammarError:
                return count
        raise AssertionError("it goes on for ever")

    count = num_tokens()
    assert 32 < count < 400
    assert num_tokens() == count


def test_a_grammar_whose_texts_are_short_or_cannot_go_on_is_no_work() -> None:
    # The walk of the check meets the end of the text, or a token that the vocabulary lacks.
    for rules in ('root ::= "a"', 'root ::= "a" "\u00fc" | "b"'):
        Grammars(*WORDS).compile(gbnf(rules))


def test_a_vocabulary_without_an_end_cannot_end_a_text() -> None:
    grammars = Grammars(SPELLING, len(PIECES), frozenset())
    state = grammars.begin(gbnf('root ::= "c"'))
    push(state, b"c")
    with pytest.raises(GrammarError, match="no token to end a text"):
        state.allowed()


def test_grammars_are_kept_by_what_they_take_the_last_ones_used() -> None:
    asked: list[str] = []

    def check(grammar: Grammar) -> Checked:
        asked.append(grammar.text)
        return Checked(lark_of(grammar), 15 << 20)

    grammars = Grammars(*WORDS, check)
    texts = [gbnf(f'root ::= "a"{{{i}}}') for i in range(1, 8)]
    for text in texts:
        grammars.compile(text)
        grammars.compile(texts[0])
    assert asked == [text.text for text in texts]
    assert [grammars.knows(text) for text in texts] == [True, *[False] * 3, *[True] * 3]


def test_few_enough_grammars_are_kept_that_all_of_their_lexers_may_grow() -> None:
    grammars = Grammars(*WORDS)
    texts = [gbnf(f'root ::= "a"{{{i}}}') for i in range(1, 66)]
    for text in texts:
        grammars.compile(text)
    assert [text for text in texts if not grammars.knows(text)] == texts[:1]
