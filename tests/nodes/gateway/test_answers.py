import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.gateway.answers import Answers, Delta, kinds_of
from nodes.gateway.completions import COMPLETIONS
from nodes.messages import PromptLogprobsNotice
from tests.nodes.gateway.fake_mesh import (
    FINGERPRINT,
    MODEL_HASH,
    NUMERICS,
    finished,
    scored,
    started,
    tokens,
)
from tests.nodes.gateway.jobs import Jobs


def answers(**body: object) -> Answers:
    job = Jobs(COMPLETIONS, strict_fields=False).job({"prompt": "hi", **body})
    return Answers(job, "cmpl-1", 5)


def deltas(made: Answers, *events: object, prompt: int = 0) -> list[Delta]:
    found = (made.on_event(prompt, event) for event in events)  # type: ignore[arg-type]
    return [delta for delta in found if delta is not None]


@given(st.binary(max_size=60), st.data())
def test_the_text_is_that_of_all_bytes_at_once(raw: bytes, data: st.DataObject) -> None:
    made, found, at, position = answers(), "", 0, 0
    while at < len(raw):
        size = data.draw(st.integers(1, 6))
        found += "".join(d.text for d in deltas(made, tokens(raw[at : at + size], position)))
        at, position = at + size, position + 1
    (last,) = deltas(made, finished(position))
    assert found + last.text == raw.decode("utf-8", "replace")


def test_a_notice_without_text_is_not_told() -> None:
    made = answers()
    assert deltas(made, started(), tokens(b"", 0), tokens(b"\xe2", 1)) == []
    (delta,) = deltas(made, tokens(b"", 2, scores=(scored("x", -1.0),)))
    assert (delta.text, len(delta.tokens)) == ("", 1)


def test_choices_of_several_prompts_have_indices_of_their_own() -> None:
    made = answers(prompt=["a", "b"], n=2)
    (delta,) = deltas(made, tokens("x", 0, choice=1), prompt=1)
    assert (delta.index, delta.begins) == (3, True)
    (delta,) = deltas(made, tokens("x", 1, choice=1), prompt=1)
    assert not delta.begins


def test_usage_counts_prompts_once_and_all_choices() -> None:
    made = answers(prompt=["a", "b"], n=2, seed=9, temperature=0.5)
    for prompt in (0, 1):
        deltas(made, started(5), prompt=prompt)
        for choice in (0, 1):
            deltas(made, tokens("x", 0, choice), finished(1, "stop", choice, 4, 3), prompt=prompt)
    found = made.usage()
    assert (found["prompt_tokens"], found["completion_tokens"], found["total_tokens"]) == (
        10,
        4,
        14,
    )
    assert found["completion_tokens_details"] == {
        "accepted_prediction_tokens": 12,
        "rejected_prediction_tokens": 4,
    }
    assert found["airdraft"] == {
        "drafted": 16,
        "accepted": 12,
        "exact": True,
        "seed": 9,
        "sampling": {"temperature": 0.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
        "emulated": True,
        "model_hash": MODEL_HASH,
        "numerics_class": NUMERICS,
    }
    assert made.fingerprint == FINGERPRINT


def test_an_echo_of_text_goes_before_each_choice() -> None:
    made = answers(prompt="hi ", echo=True, n=2)
    (first, second, last) = deltas(
        made, started(), tokens("a", 0), tokens("b", 0, choice=1), tokens("c", 1)
    )
    assert (first.text, second.text, last.text) == ("hi a", "hi b", "c")


def test_an_echo_of_token_ids_is_made_of_their_bytes() -> None:
    made = answers(prompt=[5, 6, 7], echo=True, max_tokens=0, logprobs=1)
    first, second = scored(b"\xe2\x82", -1.0), scored(b"\xac", -2.0)
    notices = [PromptLogprobsNotice(1, 1, (first,)), PromptLogprobsNotice(1, 2, (second,))]
    (delta,) = deltas(made, started(), *notices, finished(0, "length"))
    assert delta.text == "€"
    found = [(token.is_first, token.kind) for token in delta.tokens]
    assert found == [(True, "prompt"), (False, "prompt"), (False, "prompt")]
    assert delta.finish_reason == "length"


# What the tokenizer put before the text is not of it.
@pytest.mark.parametrize(("prompt", "first"), [("hello you", b"hello"), (" you", b"")])
def test_the_first_token_of_a_text_is_what_the_others_leave(prompt: str, first: bytes) -> None:
    made = answers(prompt=prompt, echo=True, logprobs=0)
    scores = PromptLogprobsNotice(1, 1, (scored(" you", -1.0),))
    (delta,) = deltas(made, started(), scores, tokens("!", 0))
    assert [t.scores.chosen.piece for t in delta.tokens] == [first, b" you"]


@pytest.mark.parametrize(("prompt", "piece"), [("hi", b"hi"), ([5], b"")])
def test_a_prompt_of_one_token_is_echoed_without_a_score(prompt: object, piece: bytes) -> None:
    made = answers(prompt=prompt, echo=True, logprobs=1, max_tokens=0)
    (delta,) = deltas(made, started(1), finished(0, "length"))
    (token,) = delta.tokens
    assert token.is_first
    assert token.scores.chosen.piece == piece
    assert delta.text == piece.decode()


@pytest.mark.parametrize(
    ("counts", "kinds"),
    [
        ((1, 0, 0), "plain"),
        ((3, 0, 0), "plain plain plain"),
        ((3, 4, 2), "accepted accepted corrected"),
        ((1, 4, 0), "corrected"),
        ((5, 4, 4), "accepted accepted accepted accepted bonus"),
        # It ended with a guess.
        ((2, 4, 2), "accepted accepted"),
        ((2, 4, 3), "accepted accepted"),
        ((0, 2, 0), ""),
    ],
)
def test_what_made_each_token(counts: tuple[int, int, int], kinds: str) -> None:
    assert kinds_of(*counts) == kinds.split()
