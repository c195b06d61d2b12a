"""Targets come and go under requests that are under way, and the scores of prompts."""

from __future__ import annotations

import pytest

from nodes.coordinator.sends import Send
from nodes.messages import (
    CloseStreamNotice,
    OpenStreamRequest,
    PromptLogprobsNotice,
    PromptScoresNotice,
    Score,
    TokenScores,
    TokensNotice,
)
from tests.nodes.builders import PROMPT, make_profile
from tests.nodes.coordinator.script import CLIENT, DRAFT, OTHER, TARGET, Mesh, Sends, make_mesh


def test_a_stream_of_a_lost_target_goes_on_from_its_journal() -> None:
    mesh = make_mesh(with_draft=True)
    mesh.submit()
    mesh.ready()
    mesh.commit()
    sends = mesh.gone(TARGET)
    # Nobody is there yet. The draft node is told, the client is not.
    assert sends.to(DRAFT) == [CloseStreamNotice(1, 1)]
    assert sends.to(CLIENT) == []
    sends = mesh.join(OTHER, "target", make_profile())
    (there,) = sends.said(OpenStreamRequest, OTHER)
    assert (there.generation, there.num_prompt_tokens, there.token_ids) == (2, 3, (*PROMPT, 9))
    assert [m.generation for m in sends.said(OpenStreamRequest, DRAFT)] == [2]
    mesh.ready(1, 2, OTHER)
    tokens, finished = mesh.finish(1, 4, peer=OTHER, generation=2).to(CLIENT)
    assert tokens == TokensNotice(1, 0, 1, b"a", (9,), is_last=True)
    # What it did on both.
    assert (finished.num_tokens, finished.figures.num_plain_steps) == (2, 2)
    assert mesh.num_under_way() == 0


# -- scores ----------------------------------------------------------------------------------------


def scores(count: int) -> tuple[TokenScores, ...]:
    return tuple(TokenScores(Score(i, -0.5, b"x"), ()) for i in range(count))


def score(mesh: Mesh, position: int, count: int, stream_id: int = 1, generation: int = 1) -> Sends:
    """The target tells some scores of a prompt."""
    notice = PromptScoresNotice(stream_id, generation, position, scores(count))
    return mesh.hear(TARGET, notice)


@pytest.mark.parametrize("num_too_many", [0, 3])
def test_the_other_choices_begin_when_the_client_has_all_scores_of_their_prompt(
    mesh: Mesh, num_too_many: int
) -> None:
    assert mesh.submit(num_choices=3, scores_prompt=True).opened() == [1]
    assert score(mesh, 1, 1) == [Send(CLIENT, PromptLogprobsNotice(1, 1, scores(1)))]
    sends = score(mesh, 2, 1 + num_too_many)
    assert sends.to(CLIENT) == [PromptLogprobsNotice(1, 2, scores(1))]
    assert sends.opened() == [2, 3]
    # Told again, and of a stream that is not there.
    assert score(mesh, 1, 2) == score(mesh, 1, 2, 7) == score(mesh, 1, 2, generation=2) == []
    assert mesh.state.num_stale == 2
    # One token has no scores to wait for.
    asked = {"num_choices": 2, "scores_prompt": True, "prompt_token_ids": (9,)}
    assert mesh.submit(2, **asked).opened() == [4, 5]


def test_scores_that_nobody_asked_for_place_nobody_anew() -> None:
    mesh = make_mesh(max_streams=1)
    mesh.submit(num_choices=2)
    assert score(mesh, 1, 1) == score(mesh, 2, 1) == []
    assert mesh.state.num_stale == 2
    assert mesh.finish().opened() == [2]


def test_scores_that_were_lost_are_asked_for_anew(mesh: Mesh) -> None:
    mesh.submit(num_choices=2, scores_prompt=True)
    sends = score(mesh, 2, 1)
    assert sends.failure() == ("left", "scores of the prompt were lost on the way")
    assert sends.to(TARGET) == [CloseStreamNotice(1, 1)]
    assert mesh.num_under_way() == 0


def test_a_prompt_that_another_target_scores_anew_is_told_once(mesh: Mesh) -> None:
    mesh.submit(scores_prompt=True, num_logprobs=0)
    score(mesh, 1, 1)
    mesh.join(OTHER, "target", make_profile())
    mesh.bye(TARGET)
    (told,) = mesh.hear(OTHER, PromptScoresNotice(1, 2, 1, scores(2))).to(CLIENT)
    assert (told.position, len(told.scores)) == (2, 1)


def test_a_client_is_told_scores_and_guesses_of_its_tokens(mesh: Mesh) -> None:
    mesh.submit(num_logprobs=0)
    mesh.ready()
    # A third guess was right and ended the text: no token of it.
    guesses = {"num_draft_tokens": 4, "num_accepted_tokens": 3, "scores": scores(2)}
    tokens, _ = mesh.finish(token_ids=(9, 8), text=b"ab", **guesses).to(CLIENT)
    assert tokens == TokensNotice(1, 0, 0, b"ab", (9, 8), 4, 2, scores(2), is_last=True)


def test_a_target_that_does_not_score_what_it_was_to_ends_the_request(mesh: Mesh) -> None:
    mesh.submit(num_logprobs=0)
    mesh.ready()
    assert mesh.commit().failure() == (
        "unavailable",
        "the target sent another number of log-probabilities than of tokens",
    )


def test_where_only_the_prompt_is_scored_no_draft_node_is_asked() -> None:
    mesh = make_mesh(with_draft=True)
    sends = mesh.submit(max_tokens=0, scores_prompt=True)
    assert (sends.opened(), sends.to(DRAFT)) == ([1], [])
    score(mesh, 1, 2)
    (finished,) = mesh.commit(token_ids=(), finish_reason="length").to(CLIENT)
    assert (finished.num_tokens, finished.finish_reason) == (0, "length")
    assert finished.figures.num_plain_steps == 0
