from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nodes.coordinator.requests.request import (
    BadRequestError,
    Choice,
    new_request,
    sampling_of,
    specs_of,
    started_notice,
)
from nodes.engine.rules import LogitBias, LogitRules
from nodes.messages import PromptLogprobsNotice, PromptScoresNotice, Score, TokenScores
from tests.nodes.builders import PROMPT, make_profile, make_submit


def test_a_request_without_a_seed_draws_one_that_repeats_it() -> None:
    seeds = {new_request(b"c", make_submit(seed=-1)).seed for _ in range(20)}
    assert len(seeds) > 1
    assert all(0 <= seed < 2**53 for seed in seeds)
    assert new_request(b"c", make_submit(seed=0)).seed == 0


def test_the_choices_of_a_request_are_streams_that_differ_in_their_noise_only() -> None:
    request = new_request(b"c", make_submit(num_choices=3, temperature=0.7, stops=("x",)))
    specs = specs_of(request, "owner", 10, PROMPT, make_profile())
    assert [s.stream_id for s in specs] == [10, 11, 12]
    assert [s.sampling.choice for s in specs] == [0, 1, 2]
    for spec in specs:
        assert spec.sampling.seed == 7
        assert (spec.token_ids, spec.num_prompt_tokens) == (PROMPT, 3)
        assert (spec.owner, spec.generation, spec.stops) == ("owner", 1, ("x",))


def test_a_gamma_of_minus_1_leaves_it_to_the_policy() -> None:
    assert new_request(b"c", make_submit(gamma=-1)).fixed_gamma is None
    assert new_request(b"c", make_submit(gamma=0)).fixed_gamma == 0


def test_twice_the_priority_weighs_twice_as_much() -> None:
    weights = [new_request(b"c", make_submit(priority=priority)).weight for priority in (1, 5, 10)]
    assert weights == [0.2, 1.0, 2.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -1.0}, "temperature -1.0 outside 0..100"),
        ({"temperature": float("nan")}, "temperature nan outside 0..100"),
        ({"top_p": 0.0}, r"top_p 0.0 outside \(0, 1\]"),
        ({"min_p": 1.5}, "min_p 1.5 outside 0..1"),
        ({"prompt_token_ids": ()}, "the prompt is empty"),
        ({"max_tokens": 0}, "max_tokens is 0: it must be at least 1 unless the prompt is scored"),
        ({"rules": LogitRules(presence_penalty=3.0)}, r"presence_penalty 3.0 outside -2..2"),
    ],
)
def test_a_bad_request_is_told_which_parameter_is_bad(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadRequestError, match=message):
        new_request(b"c", make_submit(**changes))


def test_sampling_takes_every_parameter_over() -> None:
    submit = make_submit(temperature=0.5, top_k=3, top_p=0.9, min_p=0.1)
    sampling = sampling_of(new_request(b"c", submit), 2)
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 3, 0.9)
    assert (sampling.min_p, sampling.seed, sampling.choice) == (0.1, 7, 2)


@pytest.mark.parametrize(
    ("prompt", "changes", "message"),
    [
        ((), {}, "the prompt is empty"),
        ((96,), {}, "token id 96 is outside the vocabulary of toy-1"),
        (PROMPT, {"context_length": 10}, r"3 prompt tokens \+ 8 to generate exceed the 10 of toy"),
        (
            (9,) * 131_072,
            {"context_length": 1 << 18, "num_cells": 1 << 18},
            r"131072 prompt tokens \+ 8 to generate exceed the 131072 tokens of a message",
        ),
        (PROMPT, {"num_cells": 26}, r"overflow: .* \+ 16 guesses exceed the 26 cells of toy-1"),
    ],
)
def test_what_never_fits_is_refused_with_the_numbers(
    prompt: tuple[int, ...], changes: dict[str, Any], message: str
) -> None:
    request = new_request(b"c", make_submit())
    with pytest.raises(BadRequestError, match=message):
        specs_of(request, "owner", 1, prompt, make_profile(**changes))


def test_biases_of_tokens_that_the_model_lacks_are_refused() -> None:
    request = new_request(b"c", make_submit(rules=LogitRules((LogitBias(96, 1.0),))))
    reason = "logit_bias: token id 96 is outside the vocabulary of toy-1"
    with pytest.raises(BadRequestError, match=reason):
        specs_of(request, "owner", 1, PROMPT, make_profile())


def test_the_prompt_of_all_choices_is_scored_once() -> None:
    submit = make_submit(num_choices=3, max_tokens=0, scores_prompt=True, num_logprobs=4)
    specs = specs_of(new_request(b"c", submit), "owner", 1, PROMPT, make_profile())
    assert [s.scores_prompt for s in specs] == [True, False, False]
    assert [s.num_logprobs for s in specs] == [4, 4, 4]


def test_scores_that_are_told_again_are_not_passed_on_and_a_gap_is_an_error() -> None:
    request = new_request(b"c", make_submit(scores_prompt=True))
    request.num_prompt_tokens = 6
    scores = tuple(TokenScores(Score(i, -1.0, b""), ()) for i in range(6))

    def told(position: int, end: int) -> PromptLogprobsNotice | None:
        return request.scored(PromptScoresNotice(1, 1, position, scores[position:end]))

    assert told(1, 3) == PromptLogprobsNotice(1, 1, scores[1:3])
    assert told(1, 3) is None
    assert told(1, 5) == PromptLogprobsNotice(1, 3, scores[3:5])
    assert request.awaits_scores
    with pytest.raises(ValueError, match="scores of the prompt were lost on the way"):
        told(6, 6)
    assert told(5, 6) == PromptLogprobsNotice(1, 5, scores[5:])
    assert not request.awaits_scores


@pytest.mark.parametrize("emulated", [(), ("target",), ("draft",)])
def test_an_answer_is_called_emulated_if_one_of_its_nodes_is(emulated: tuple[str, ...]) -> None:
    request = new_request(b"c", make_submit())
    real = make_profile(emulated=False)
    (spec,) = specs_of(request, "owner", 10, PROMPT, real)
    nodes = {name: replace(real, emulated=name in emulated) for name in ("target", "draft")}
    drafts = [real, nodes["draft"]]
    notice = started_notice(request, Choice(spec), nodes["target"], drafts, 0.0)
    assert notice.emulated == bool(emulated)
