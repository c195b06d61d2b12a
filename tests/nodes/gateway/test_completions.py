from __future__ import annotations

import json
from typing import Any

import pytest

from nodes.gateway.answers import Delta, ScoredToken
from nodes.gateway.completions import COMPLETIONS
from nodes.gateway.config import GatewayLimits
from nodes.gateway.errors import ApiError
from nodes.gateway.fields import Job
from nodes.gateway.shape import DONE, Head, Whole
from tests.nodes.gateway.fake_mesh import scored
from tests.nodes.gateway.jobs import Jobs

FIELDS = Jobs(COMPLETIONS, GatewayLimits(max_prompt_chars=100, max_prompt_tokens=5, max_prompts=3))
HEAD = Head("cmpl-1", 5, "toy", "fp_a_b")


def job(**body: Any) -> Job:
    return FIELDS.job(body)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("hi", ("hi",)),
        (["hi", "ho"], ("hi", "ho")),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
)
def test_prompts_of_every_form(prompt: Any, prompts: tuple[Any, ...]) -> None:
    assert job(prompt=prompt).prompts == prompts


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ("", "prompt"),
        ([], "prompt"),
        ({}, "prompt"),
        (True, "prompt"),
        ([True], "prompt[0]"),
        ([1, "a"], "prompt[1]"),
        ([1, True], "prompt[1]"),
        ([1, -1], "prompt[1]"),
        ([1, 2**31], "prompt[1]"),
        (["a", 1], "prompt[1]"),
        (["a", ""], "prompt[1]"),
        ([[1], "a"], "prompt[1]"),
        ([[]], "prompt[0]"),
        ("x" * 101, "prompt"),
        ([1] * 6, "prompt"),
        (["a"] * 4, "prompt"),
        (None, "prompt"),
    ],
)
def test_prompts_that_are_refused(prompt: Any, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        job(prompt=prompt)
    assert caught.value.param == param


def test_scoring_as_evaluation_harnesses_ask_for_it() -> None:
    for max_tokens in (0, 1):
        found = job(prompt=[[1, 2]], echo=True, logprobs=1, max_tokens=max_tokens, temperature=0)
        assert (found.options.max_tokens, found.options.num_logprobs) == (max_tokens, 1)
        assert found.options.scores_prompt


def test_an_echo_asks_for_scores_only_where_it_needs_them() -> None:
    assert not job(prompt="hi", echo=True).options.scores_prompt
    assert job(prompt=[1], echo=True).options.scores_prompt
    assert job(prompt="hi", echo=True, max_tokens=0).options.scores_prompt
    assert job(prompt="hi", logprobs=2).options.num_logprobs == 2


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_is_refused_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        job(prompt="hi", **body)
    assert caught.value.param == param


def event(data: bytes) -> Any:
    assert data.startswith(b"data: ")
    assert data.endswith(b"\n\n")
    return json.loads(data[6:])


def test_chunks_are_completions_of_one_choice() -> None:
    body = {"prompt": "hi", "stream": True, "stream_options": {"include_usage": True}}
    shape = FIELDS.shape(FIELDS.job(body))
    found = event(shape.chunks(HEAD, Delta(1, 'a"\n', (), True)))
    assert (found["id"], found["object"], found["created"]) == ("cmpl-1", "text_completion", 5)
    assert found["choices"] == [
        {"index": 1, "text": 'a"\n', "logprobs": None, "finish_reason": None}
    ]
    assert found["usage"] is None
    found = event(shape.chunks(HEAD, Delta(1, "", (), False, "stop")))
    assert found["choices"][0]["finish_reason"] == "stop"
    found = event(shape.end(HEAD, {"total_tokens": 4}).removesuffix(DONE))
    assert (found["choices"], found["usage"]) == ([], {"total_tokens": 4})


def test_offsets_of_streamed_logprobs_go_on() -> None:
    body = {"prompt": "hi", "logprobs": 0}
    shape = FIELDS.shape(FIELDS.job(body))
    for text, offset in (("ab", 0), ("c", 2)):
        token = ScoredToken(scored(text, -1.0))
        found = event(shape.chunks(HEAD, Delta(0, text, (token,), False)))
        assert found["choices"][0]["logprobs"]["text_offset"] == [offset]


def test_a_whole_answer() -> None:
    body = {"prompt": "hi"}
    shape = FIELDS.shape(FIELDS.job(body))
    choice = Whole()
    choice.add(Delta(0, "a", (), True))
    choice.add(Delta(0, "b", (), False, "length"))
    found = json.loads(shape.whole(HEAD, [choice], {"total_tokens": 1}))
    assert found["choices"] == [
        {"index": 0, "text": "ab", "logprobs": None, "finish_reason": "length"}
    ]
    assert found["system_fingerprint"].startswith("fp_")
