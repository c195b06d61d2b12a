"""Rules before the temperature: what a sampler says against the same steps one after the other."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.engine.grammar import GrammarError, Grammars
from airdraft.nodes.engine.protocol import Logits
from airdraft.nodes.engine.rules import Grammar, LogitBias, LogitRules
from airdraft.nodes.engine.sampler import Sampler
from airdraft.nodes.engine.sampling import Sampling, sample
from airdraft.nodes.engine.toy import TOY_EOG, ToyTokenizer

NUM_VOCAB = 40
GRAMMAR = Grammar("gbnf", 'root ::= (" " [1-3] [0-9]?)+ " 4"')
GRAMMARS = Grammars(ToyTokenizer(NUM_VOCAB).piece, NUM_VOCAB, frozenset({TOY_EOG}))
FIRST = {1, 2, 3, *range(10, 40)}


def make_logits(seed: int, num_rows: int = 1) -> Logits:
    drawn = np.random.default_rng(seed).normal(0.0, 2.0, (num_rows, NUM_VOCAB))
    return drawn.astype(np.float32)


def make_sampler(rules: LogitRules, *prompt: int, **changes: float) -> Sampler:
    sampling = Sampling(rules=rules, **changes)  # type: ignore[arg-type]
    return sampler_of(sampling, prompt, len(prompt))


def sampler_of(sampling: Sampling, token_ids: tuple[int, ...], num_prompt: int) -> Sampler:
    fields = {"num_vocab": NUM_VOCAB, "num_prompt_tokens": num_prompt, "grammars": GRAMMARS}
    return Sampler(sampling, token_ids=token_ids, **fields)


def step_by_step(row: Logits, rules: LogitRules, text: list[int], allowed: set[int]) -> Logits:
    """Bias, then penalties, then the mask, a token at a time."""
    counts = Counter(text)
    out = np.full(NUM_VOCAB, -np.inf, dtype=np.float32)
    for token_id in sorted(allowed):
        shift = sum(entry.bias for entry in rules.logit_bias if entry.token_id == token_id)
        if count := counts[token_id]:
            shift -= rules.presence_penalty + rules.frequency_penalty * count
        out[token_id] = row[token_id] + np.float32(shift)
    return out


rules_of_all_kinds = st.builds(
    LogitRules,
    logit_bias=st.lists(
        st.builds(LogitBias, st.integers(0, 60), st.sampled_from([-100.0, -1.5, 2.25])), max_size=5
    ).map(tuple),
    presence_penalty=st.sampled_from([0.0, 0.5, -1.25]),
    frequency_penalty=st.sampled_from([0.0, 0.75, -0.5]),
    grammar=st.sampled_from([Grammar(), GRAMMAR]),
)


@given(
    rules_of_all_kinds,
    st.lists(st.integers(0, NUM_VOCAB - 1), max_size=8),
    st.sampled_from([0.0, 0.8]),
    st.sampled_from([0, 5]),
    st.integers(0, 1000),
)
def test_rules_come_one_after_the_other_before_the_temperature(
    rules: LogitRules, prompt: list[int], temperature: float, top_k: int, seed: int
) -> None:
    sampler = make_sampler(rules, *prompt, temperature=temperature, top_k=top_k, seed=seed)
    text = list(prompt)
    for step, row in enumerate(make_logits(seed, 6)):
        before = row.copy()
        token_id = sampler.sample(row, len(text))
        allowed = set(range(NUM_VOCAB))
        if rules.grammar.kind:
            allowed = FIRST | ({4} if step else set())
        ruled = step_by_step(row, rules, text, allowed)
        assert token_id == sample(ruled, sampler.sampling, len(text))
        # Scores and confidence are read from the same row.
        assert (row == before).all()
        if token_id == 4 and rules.grammar.kind:
            break
        sampler.push(token_id)
        text.append(token_id)


# What the grammar allows anywhere.
outputs = st.lists(st.sampled_from([1, 2, 3, 17, 30]), max_size=4)


@given(rules_of_all_kinds, st.lists(st.integers(0, 39), max_size=4), outputs, st.data())
def test_what_follows_a_text_does_not_depend_on_how_it_came(
    rules: LogitRules, prompt: list[int], output: list[int], data: st.DataObject
) -> None:
    """At once, or in pieces, with other tokens between that are cut off, also in the prompt."""
    text = prompt + output
    sampling = Sampling(rules=rules)
    at_once = sampler_of(sampling, tuple(text), len(prompt))
    num_given = data.draw(st.integers(0, len(text)))
    grown = sampler_of(sampling, tuple(text[:num_given]), len(prompt))
    for _ in range(2):
        grown.extend(data.draw(outputs))
        kept = data.draw(st.integers(0, num_given))
        grown.cut(kept)
        num_given = data.draw(st.integers(kept, len(text)))
        grown.extend(text[kept:num_given])
    grown.extend(text[num_given:])
    rows = make_logits(3, 20)
    # The last token of the grammar, where it may come: not as the first one.
    rows[::2, 4] = 9.0
    for row in rows:
        assert at_once.sample(row, len(text)) == grown.sample(row, len(text))


def test_an_output_that_its_grammar_does_not_allow_is_an_error() -> None:
    sampler = sampler_of(Sampling(rules=LogitRules(grammar=GRAMMAR)), (5, 6), 1)
    (row,) = make_logits(1)
    with pytest.raises(GrammarError, match="cannot go on"):
        sampler.sample(row, 2)


def test_biases_of_tokens_that_a_vocabulary_lacks_are_left_out() -> None:
    (row,) = make_logits(1)
    assert make_sampler(LogitRules((LogitBias(99, 100.0),))).sample(row, 0) == int(row.argmax())
    twice = LogitRules((LogitBias(7, 50.0), LogitBias(7, 50.0), LogitBias(8, 99.0)))
    assert make_sampler(twice).sample(row, 0) == 7


@given(
    st.integers(0, 1000),
    st.integers(0, 6),
    st.integers(0, 6),
    st.sampled_from([0.0, 1.0]),
    st.booleans(),
)
def test_verify_gives_the_matching_prefix_and_one_token_more(
    seed: int, num_guesses: int, num_right: int, temperature: float, spare_row: bool
) -> None:
    rows = make_logits(seed, num_guesses + 1 + spare_row)
    sampling = Sampling(temperature=temperature, top_k=20, seed=seed)
    own = [sample(rows[i], sampling, 100 + i) for i in range(num_guesses + 1)]
    num_right = min(num_right, num_guesses)
    # Right again after the first mistake: those must not count.
    guesses = own[:num_guesses]
    if num_right < num_guesses:
        guesses[num_right] = (own[num_right] + 1) % 40
    token_ids, num_accepted = Sampler(sampling).verify(rows, 100, guesses)
    assert num_accepted == num_right
    assert token_ids == own[: num_right + 1]


def test_verify_needs_a_row_for_every_guess_and_one_more() -> None:
    rows = make_logits(0, 2)
    guesses = [sample(row, Sampling(), 0) for row in rows]
    with pytest.raises(ValueError, match="2 rows of logits for 2 guesses"):
        Sampler(Sampling()).verify(rows, 0, guesses)


@given(rules_of_all_kinds, st.integers(0, 6), st.integers(0, 1000))
def test_guesses_that_were_not_accepted_leave_no_trace(
    rules: LogitRules, num_right: int, seed: int
) -> None:
    rows = make_logits(seed, 8)
    plain, guessing = (make_sampler(rules, 5, 6, temperature=1.0, seed=seed) for _ in range(2))
    own = [plain.verify(rows[i : i + 1], 2 + i, ())[0][0] for i in range(num_right + 1)]
    if rules.grammar.kind and 4 in own:
        return
    guesses = [*own[:num_right], (own[num_right] + 1) % NUM_VOCAB]
    assert guessing.verify(rows, 2, guesses) == (own, num_right)
    position = 2 + len(own)
    assert guessing.sample(rows[7], position) == plain.sample(rows[7], position)
