import json
from typing import Any

import pytest

from airdraft.nodes.gateway.answers import Delta, ScoredToken
from airdraft.nodes.gateway.completions import COMPLETIONS, CompletionLogprobs
from airdraft.nodes.gateway.config import GatewayLimits
from airdraft.nodes.gateway.fields import Job
from airdraft.nodes.gateway.shape import DONE
from tests.nodes.gateway.fake_mesh import FINGERPRINT, MODEL, scored
from tests.nodes.gateway.jobs import Jobs

LIMITS = GatewayLimits(max_prompt_chars=100, max_prompt_tokens=5, max_prompts=3, max_tokens=99)
FIELDS = Jobs(COMPLETIONS, LIMITS)


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


def test_all_choices_of_a_body_are_counted_together() -> None:
    jobs = Jobs(COMPLETIONS, GatewayLimits(max_choices_of_body=12))
    assert len(jobs.job({"prompt": ["a"] * 4, "n": 3}).prompts) == 4
    assert jobs.refused({"prompt": ["a"] * 5, "n": 3}) == "n"


@pytest.mark.parametrize(
    ("body", "scores_prompt"),
    [
        # As evaluation harnesses ask.
        ({"prompt": [[1, 2]], "echo": True, "logprobs": 1, "max_tokens": 0}, True),
        ({"prompt": [[1, 2]], "echo": True, "logprobs": 1, "max_tokens": 1}, True),
        ({"prompt": "hi", "echo": True}, False),
        ({"prompt": [1], "echo": True}, True),
        ({"prompt": "hi", "echo": True, "max_tokens": 0}, True),
        ({"prompt": "hi", "logprobs": 2}, False),
    ],
)
def test_prompts_are_scored_where_an_echo_needs_it(
    body: dict[str, Any], scores_prompt: bool
) -> None:
    options = job(**body).options
    assert options.scores_prompt is scores_prompt
    if "logprobs" in body:
        assert options.num_logprobs == body["logprobs"]
    assert options.max_tokens == body.get("max_tokens", options.max_tokens)


def event(data: bytes) -> Any:
    assert data.startswith(b"data: ")
    assert data.endswith(b"\n\n")
    return json.loads(data[6:])


@pytest.mark.parametrize("has_usage", [False, True])
def test_chunks_are_completions_of_one_choice(has_usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if has_usage else {}
    shape = FIELDS.shape(job(prompt="hi", stream=True, **options), "cmpl-1")
    found = event(shape.chunks(Delta(1, 'a"\n', (), True)))
    assert (found["id"], found["object"], found["created"]) == ("cmpl-1", "text_completion", 5)
    assert (found["model"], found["system_fingerprint"]) == (MODEL, FINGERPRINT)
    assert found["choices"] == [
        {"index": 1, "text": 'a"\n', "logprobs": None, "finish_reason": None}
    ]
    assert found.get("usage", 0) == (None if has_usage else 0)
    end = shape.end()
    assert end.endswith(DONE)
    if has_usage:
        found = event(end.removesuffix(DONE))
        assert (found["choices"], found["usage"]["total_tokens"]) == ([], 3)


def test_logprobs_are_lists_beside_each_other() -> None:
    found = CompletionLogprobs().of(
        [
            ScoredToken(scored("ab", 0.0), is_first=True),
            ScoredToken(scored("c", -2.0, ("d", -1.0))),
            ScoredToken(scored("é", -0.5, ("é", -0.5))),
            ScoredToken(scored("a", -3.0, ("a", -1.0))),
            # Two that are parts of a character.
            ScoredToken(scored(b"\xe2\x82", -1.0)),
            ScoredToken(scored(b"\xac", -1.0)),
            ScoredToken(scored("x", -1.0)),
        ]
    )
    assert found["tokens"] == ["ab", "c", "é", "a", "bytes:\\xe2\\x82", "bytes:\\xac", "x"]
    assert found["token_logprobs"] == [None, -2.0, -0.5, -3.0, -1.0, -1.0, -1.0]
    # The one that was chosen is there, even where others were likelier. Of two tokens with one
    # text the likelier stands.
    assert found["top_logprobs"][:4] == [None, {"d": -1.0, "c": -2.0}, {"é": -0.5}, {"a": -1.0}]
    assert found["text_offset"] == [0, 2, 3, 4, 5, 5, 6]
