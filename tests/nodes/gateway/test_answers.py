import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.gateway.answers import Answers, Delta, kinds_of
from airdraft.nodes.gateway.completions import COMPLETIONS
from airdraft.nodes.messages import PromptLogprobsNotice
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


def test_choices_of_several_prompts_are_told_apart_and_counted_together() -> None:
    made = answers(prompt=["a", "b"], n=2, seed=9, temperature=0.5)
    told = list[Delta]()
    for prompt in (0, 1):
        deltas(made, started(5), prompt=prompt)
        for choice in (0, 1):
            events = tokens("x", 0, choice), finished(1, "stop", choice, 4, 3, 2 + choice)
            told += deltas(made, *events, prompt=prompt)
    assert [delta.index for delta in told] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [delta.begins for delta in told] == [True, False] * 4
    found = made.usage()
    counts = [found[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    assert counts == [10, 4, 14]
    assert found["prompt_tokens_details"] == {"cached_tokens": 4}
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


@pytest.mark.parametrize(
    ("prompt", "later", "pieces"),
    [
        # A text's first token is what the others leave: what the tokenizer put before it is not of
        # the text.
        ("hello you", [b" you"], [b"hello", b" you"]),
        (" you", [b" you"], [b"", b" you"]),
        ("hi", [], [b"hi"]),
        # An echo of ids is made of their bytes.
        ([5, 6, 7], [b"\xe2\x82", b"\xac"], [b"", b"\xe2\x82", b"\xac"]),
        ([5], [], [b""]),
    ],
)
def test_a_prompt_is_echoed_with_scores_but_for_its_first_token(
    prompt: object, later: list[bytes], pieces: list[bytes]
) -> None:
    made = answers(prompt=prompt, echo=True, max_tokens=0, logprobs=1)
    notices = [PromptLogprobsNotice(1, n, (scored(raw, -n),)) for n, raw in enumerate(later, 1)]
    (delta,) = deltas(made, started(), *notices, finished(0, "length"))
    assert delta.text == (prompt if isinstance(prompt, str) else b"".join(pieces).decode())
    assert [token.scores.chosen.piece for token in delta.tokens] == pieces
    kinds = [(token.is_first, token.kind) for token in delta.tokens]
    assert kinds == [(True, "prompt"), *[(False, "prompt")] * len(later)]
    assert delta.finish_reason == "length"


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
