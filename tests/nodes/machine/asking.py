"""Requests of the machine's clients: texts of all kinds, some with a common beginning."""

from __future__ import annotations

from hypothesis import strategies as st

from airdraft.nodes.engine.rules import NO_RULES, Grammar, LogitBias, LogitRules
from airdraft.nodes.messages import SubmitRequest
from tests.nodes.builders import make_submit

LONGEST_PROMPT, MOST_TOKENS = 60, 200
_TEXTS = ("a text", "another one, that is somewhat longer")
# What the pieces of the toy's tokens, " 1", " 2" and so on, can spell.
_GRAMMARS = (
    *('root ::= (" 1" | " 2" " 1"?)+ " 3"', 'root ::= (" " [1-3] [0-9]?)+'),
    *('root ::= " 2"* (" 1" | " 3")', 'root ::= (" " [1-9] [0-9]?){3,20}'),
)
_rules = st.builds(
    LogitRules,
    logit_bias=st.lists(
        st.builds(LogitBias, st.integers(0, 3), st.sampled_from([-100.0, -2.5, 1.7, 6.0])),
        max_size=3,
    ).map(tuple),
    presence_penalty=st.sampled_from([0.0, 0.0, 1.3, -0.7]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.4, -0.1]),
    grammar=st.just(Grammar()) | st.sampled_from(_GRAMMARS).map(lambda text: Grammar("gbnf", text)),
)


def _prompts(num_vocab: int) -> st.SearchStrategy[tuple[int, ...]]:
    ids = st.integers(1, num_vocab - 1)
    longest, most = LONGEST_PROMPT - 3, num_vocab - 1
    shared = tuple(1 + 7 * i % most for i in range(longest))
    return (
        st.lists(ids, min_size=1, max_size=LONGEST_PROMPT).map(tuple)
        # Prefixes that streams have in common are read once.
        | st.tuples(st.sampled_from([3, 40, longest]), st.lists(ids, max_size=3)).map(
            lambda parts: (*shared[: parts[0]], *parts[1])
        )
    )


@st.composite
def submits(draw: st.DrawFn, request_id: int, num_vocab: int = 96) -> SubmitRequest:
    is_text = draw(st.booleans())
    scores_prompt = draw(st.sampled_from([False, False, True]))
    # Of some prompts only the scores are wanted.
    fewest = 0 if scores_prompt else 1
    return make_submit(
        request_id,
        prompt=draw(st.sampled_from(_TEXTS)) if is_text else "",
        prompt_token_ids=() if is_text else draw(_prompts(num_vocab)),
        num_choices=draw(st.sampled_from([1, 1, 2, 3])),
        max_tokens=draw(st.sampled_from([fewest, 30, MOST_TOKENS]) | st.integers(1, 80)),
        temperature=draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])),
        top_k=draw(st.sampled_from([0, 1, 3, 20])),
        top_p=draw(st.sampled_from([1.0, 0.9, 0.5])),
        min_p=draw(st.sampled_from([0.0, 0.05, 0.5])),
        seed=draw(st.integers(0, 2**63 - 1)),
        stops=tuple(draw(st.lists(st.text("0123 ", min_size=2, max_size=4), max_size=2))),
        ignore_eog=draw(st.booleans()),
        gamma=draw(st.sampled_from([-1, -1, *range(9)])),
        priority=draw(st.integers(1, 10)),
        user=draw(st.sampled_from(["", "one", "two"])),
        rules=draw(st.just(NO_RULES) | _rules),
        num_logprobs=draw(st.sampled_from([-1, -1, -1, 0, 2])),
        scores_prompt=scores_prompt,
    )
