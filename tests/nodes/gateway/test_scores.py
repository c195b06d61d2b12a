from typing import Any

import pytest

from airdraft.nodes.gateway.chat import CHAT
from airdraft.nodes.gateway.completions import COMPLETIONS
from airdraft.nodes.gateway.errors import ApiError
from airdraft.nodes.gateway.fields import Job
from airdraft.nodes.gateway.scores import HeldScores, fitted, num_scores_of
from tests.nodes.gateway.jobs import Jobs


def job(**body: Any) -> Job:
    return Jobs(COMPLETIONS).job({"prompt": "hi", **body})


@pytest.mark.parametrize(
    ("body", "num_scores"),
    [
        ({"max_tokens": 100}, 0),
        ({"max_tokens": 100, "logprobs": 0}, 100),
        ({"max_tokens": 100, "logprobs": 4, "n": 2}, 1000),
        ({"max_tokens": 100, "logprobs": 4, "n": 2, "prompt": ["a", "b"]}, 2000),
        ({"max_tokens": 100, "logprobs": 4, "n": 2, "echo": True}, (100 + 7) * 5 * 2),
        # Of a stream only the prompt's scores are held.
        ({"max_tokens": 100, "logprobs": 4, "n": 2, "stream": True}, 0),
        ({"max_tokens": 100, "logprobs": 4, "n": 2, "stream": True, "echo": True}, 7 * 5),
        # An echo of ids is made of their scores.
        ({"max_tokens": 0, "prompt": [5] * 7, "echo": True}, 7),
    ],
)
def test_what_an_answer_holds(body: dict[str, Any], num_scores: int) -> None:
    assert num_scores_of(job(**body), 7) == num_scores


def test_an_answer_that_would_hold_too_much_is_refused_before_it_is_asked_for() -> None:
    held = HeldScores(1000)
    asked = job(prompt=[[5] * 50] * 4, max_tokens=1, logprobs=4, echo=True)
    with pytest.raises(ApiError) as caught, held.entered(asked, "a"):
        pass
    assert (caught.value.status, caught.value.param) == (400, "logprobs")
    assert "1020" in caught.value.message
    assert "1000" in caught.value.message


def test_a_text_is_counted_when_its_length_is_known() -> None:
    asked = job(prompt=["a", "b"], max_tokens=0, logprobs=4, echo=True)
    with HeldScores(1000).entered(asked, "a") as scores:
        scores.count(0, 150)
        # The target of the first was lost.
        scores.count(0, 150)
        assert scores.num_scores == 750
        with pytest.raises(ApiError) as caught:
            scores.count(1, 51)
    assert caught.value.status == 400


def test_a_key_and_all_keys_hold_only_so_many_at_a_time() -> None:
    held, asked = HeldScores(1000), job(max_tokens=1000, logprobs=0)
    whole = [held.entered(asked, key) for key in "aaaaaaaabbbbbbbb"]
    for each in whole:
        each.__enter__()
    for key in "abc":
        with pytest.raises(ApiError) as caught, held.entered(asked, key):
            pass
        assert caught.value.status == 429
        assert caught.value.retry_after_s == 1
    whole[0].__exit__(None, None, None)
    with pytest.raises(ApiError), held.entered(asked, "b"):
        pass
    with held.entered(asked, "c"):
        pass
    for each in whole[1:]:
        each.__exit__(None, None, None)
    with held.entered(asked, "b"):
        pass


def test_a_length_that_is_left_open_is_what_may_be_scored() -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}], "logprobs": True, "top_logprobs": 19}
    for more, most in (({}, 500), ({"n": 2}, 250), ({"stream": True}, 32_768)):
        found = fitted(Jobs(CHAT).job({**chat, **more}), 10_000)
        assert found.options.max_tokens == most
    found = fitted(Jobs(CHAT).job({**chat, "max_tokens": 501}), 10_000)
    with pytest.raises(ApiError, match="max_tokens"), HeldScores(10_000).entered(found, "a"):
        pass
