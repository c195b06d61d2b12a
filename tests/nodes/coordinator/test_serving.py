"""Targets come and go under requests that are under way, and the scores of prompts."""

from __future__ import annotations

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
from tests.nodes.coordinator.script import (
    CLIENT,
    DRAFT,
    OTHER,
    TARGET,
    Mesh,
    failure,
    make_mesh,
    opened,
    said,
    to,
)


def test_a_stream_of_a_lost_target_goes_on_from_its_journal() -> None:
    mesh = make_mesh(with_draft=True)
    mesh.submit()
    mesh.ready()
    mesh.commit()
    sends = mesh.gone(TARGET)
    # Nobody is there yet. The draft node is told, the client is not.
    assert to(DRAFT, sends) == [CloseStreamNotice(1, 1)]
    assert to(CLIENT, sends) == []
    sends = mesh.join(OTHER, "target", make_profile())
    (there,) = said(sends, OpenStreamRequest, OTHER)
    assert (there.generation, there.num_prompt_tokens, there.token_ids) == (2, 3, (*PROMPT, 9))
    assert [m.generation for m in said(sends, OpenStreamRequest, DRAFT)] == [2]
    mesh.ready(1, 2, OTHER)
    tokens, finished = to(CLIENT, mesh.finish(1, 4, peer=OTHER, generation=2))
    assert tokens == TokensNotice(1, 0, 1, b"a", (9,), is_last=True)
    # What it did on both.
    assert (finished.num_tokens, finished.figures.num_plain_steps) == (2, 2)
    assert mesh.num_under_way() == 0


def test_streams_of_a_lost_target_find_room_on_the_others_and_the_rest_waits() -> None:
    mesh = make_mesh(max_streams=2)
    for number in (1, 2):
        mesh.submit(number)
    mesh.join(OTHER, "target", make_profile(max_streams=1))
    assert opened(mesh.bye(TARGET), OTHER) == [1]
    assert opened(mesh.finish(1, peer=OTHER, generation=2), OTHER) == [2]


def test_a_target_that_comes_back_gets_its_streams_back_as_new_ones(mesh: Mesh) -> None:
    mesh.submit(num_choices=2)
    mesh.gone(TARGET)
    sends = mesh.join(b"again", "target", make_profile(), name="target")
    # One of them may be what it died of: the other one comes later.
    assert opened(sends, b"again") == [1]
    # What it says of the old ones is of another generation.
    ((_, scheduler),) = mesh.state.roster.schedulers()
    assert mesh.ready(1, 1, b"again") == []
    assert scheduler.num_stale == 1
    mesh.ready(1, 2, b"again")
    assert opened(mesh.commit(peer=b"again", generation=2), b"again") == [2]


def test_a_request_that_waits_for_a_target_can_be_cancelled(mesh: Mesh) -> None:
    mesh.submit()
    mesh.gone(TARGET)
    mesh.cancel(1)
    assert opened(mesh.join(OTHER, "target", make_profile()), OTHER) == []
    assert mesh.num_under_way() == 0


def test_a_client_and_its_target_may_fall_silent_together() -> None:
    """Whoever of them joined first."""
    mesh = Mesh()
    mesh.join(CLIENT, "client")
    mesh.join(TARGET, "target", make_profile())
    mesh.submit()
    mesh.ready()
    mesh.state.tick(100.0)
    assert mesh.state.roster.roles() == {}
    assert mesh.num_under_way(100.0) == 0


# -- scores ----------------------------------------------------------------------------------------


def scores(count: int) -> tuple[TokenScores, ...]:
    return tuple(TokenScores(Score(i, -0.5, b"x"), ()) for i in range(count))


def score(
    mesh: Mesh, position: int, count: int, stream_id: int = 1, generation: int = 1
) -> list[Send]:
    """The target tells some scores of a prompt."""
    notice = PromptScoresNotice(stream_id, generation, position, scores(count))
    return mesh.hear(TARGET, notice)


def test_the_other_choices_begin_when_the_client_has_all_scores_of_their_prompt(mesh: Mesh) -> None:
    assert opened(mesh.submit(num_choices=3, scores_prompt=True)) == [1]
    assert score(mesh, 1, 1) == [Send(CLIENT, PromptLogprobsNotice(1, 1, scores(1)))]
    sends = score(mesh, 2, 1)
    assert [type(m) for m in to(CLIENT, sends)] == [PromptLogprobsNotice]
    assert opened(sends) == [2, 3]
    # Told again, and of a stream that is not there.
    assert score(mesh, 1, 2) == score(mesh, 1, 2, 7) == score(mesh, 1, 2, generation=2) == []
    assert mesh.state.reporting.num_stale == 2


def test_scores_of_more_than_the_prompt_are_nobodys(mesh: Mesh) -> None:
    mesh.submit(num_choices=2, scores_prompt=True)
    told, opening = score(mesh, 1, 5)
    assert len(told.message.scores) == 2
    assert isinstance(opening.message, OpenStreamRequest)
    assert score(mesh, 3, 1) == []


def test_scores_that_nobody_asked_for_place_nobody_anew() -> None:
    mesh = make_mesh(max_streams=1)
    mesh.submit(num_choices=2)
    assert score(mesh, 1, 1) == score(mesh, 2, 1) == []
    assert mesh.state.reporting.num_stale == 2
    assert opened(mesh.finish()) == [2]


def test_a_prompt_of_one_token_has_no_scores_to_wait_for() -> None:
    sends = make_mesh().submit(num_choices=2, scores_prompt=True, prompt_token_ids=(9,))
    assert opened(sends) == [1, 2]


def test_scores_that_were_lost_are_asked_for_anew(mesh: Mesh) -> None:
    mesh.submit(num_choices=2, scores_prompt=True)
    sends = score(mesh, 2, 1)
    assert failure(sends) == ("left", "scores of the prompt were lost on the way")
    assert to(TARGET, sends) == [CloseStreamNotice(1, 1)]
    assert mesh.num_under_way() == 0


def test_choices_that_wait_for_scores_can_be_cancelled(mesh: Mesh) -> None:
    mesh.submit(num_choices=2, scores_prompt=True)
    assert to(TARGET, mesh.cancel(1)) == [CloseStreamNotice(1, 1)]
    assert mesh.num_under_way() == 0


def test_a_prompt_that_another_target_scores_anew_is_told_once(mesh: Mesh) -> None:
    mesh.submit(scores_prompt=True, num_logprobs=0)
    score(mesh, 1, 1)
    mesh.join(OTHER, "target", make_profile())
    mesh.bye(TARGET)
    (told,) = to(CLIENT, mesh.hear(OTHER, PromptScoresNotice(1, 2, 1, scores(2))))
    assert (told.position, len(told.scores)) == (2, 1)


def test_a_client_is_told_scores_and_guesses_of_its_tokens(mesh: Mesh) -> None:
    mesh.submit(num_logprobs=0)
    mesh.ready()
    # A third guess was right and ended the text: no token of it.
    guesses = {"num_draft_tokens": 4, "num_accepted_tokens": 3, "scores": scores(2)}
    tokens, _ = to(CLIENT, mesh.finish(token_ids=(9, 8), text=b"ab", **guesses))
    assert tokens == TokensNotice(1, 0, 0, b"ab", (9, 8), 4, 2, scores(2), is_last=True)


def test_a_target_that_does_not_score_what_it_was_to_ends_the_request(mesh: Mesh) -> None:
    mesh.submit(num_logprobs=0)
    mesh.ready()
    assert failure(mesh.commit()) == (
        "unavailable",
        "the target sent another number of log-probabilities than of tokens",
    )


def test_where_only_the_prompt_is_scored_no_draft_node_is_asked() -> None:
    mesh = make_mesh(with_draft=True)
    sends = mesh.submit(max_tokens=0, scores_prompt=True)
    assert (opened(sends), to(DRAFT, sends)) == ([1], [])
    score(mesh, 1, 2)
    (finished,) = to(CLIENT, mesh.commit(token_ids=(), finish_reason="length"))
    assert (finished.num_tokens, finished.finish_reason) == (0, "length")
    assert finished.figures.num_plain_steps == 0
