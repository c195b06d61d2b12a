"""Targets come and go under requests that are under way."""

from __future__ import annotations

from mesh.messages import Bye
from nodes.coordinator.sends import Send
from nodes.messages import (
    CancelRequest,
    CloseStreamNotice,
    CommitEntry,
    CommitReply,
    FinishedNotice,
    OpenStreamRequest,
    PromptLogprobsNotice,
    PromptScoresNotice,
    Score,
    StreamFailedNotice,
    StreamReadyNotice,
    TokenizeReply,
    TokenizeRequest,
    TokenScores,
    TokensNotice,
)
from tests.nodes.builders import PROMPT, make_profile, make_submit
from tests.nodes.coordinator.script import (
    CLIENT,
    DRAFT,
    OTHER,
    TARGET,
    Mesh,
    failure,
    finish,
    make_mesh,
    opened,
    to,
)


def commit(
    stream_id: int, generation: int, prefix_len: int, text: bytes, reason: str = ""
) -> CommitReply:
    entry = CommitEntry(stream_id, generation, prefix_len, 1, 0, 0, reason, text)
    return CommitReply(0.0, (entry,), (9,))


def opening(sends: list[Send], peer: bytes) -> OpenStreamRequest:
    (found,) = [m for m in to(peer, sends) if isinstance(m, OpenStreamRequest)]
    return found


def test_a_stream_of_a_lost_target_goes_on_from_its_journal() -> None:
    mesh = make_mesh(with_draft=True)
    mesh.hear(CLIENT, make_submit())
    mesh.hear(TARGET, StreamReadyNotice(1, 1))
    mesh.hear(TARGET, commit(1, 1, 3, b"a"))
    sends = mesh.state.peer_gone(TARGET, 0.0)
    # Nobody is there yet. The draft node is told, the client is not.
    assert to(DRAFT, sends) == [CloseStreamNotice(1, 1)]
    assert to(CLIENT, sends) == []
    sends = mesh.join(OTHER, "target", make_profile())
    there = opening(sends, OTHER)
    assert (there.generation, there.num_prompt_tokens, there.token_ids) == (2, 3, (*PROMPT, 9))
    assert opening(sends, DRAFT).generation == 2
    mesh.hear(OTHER, StreamReadyNotice(1, 2))
    tokens, finished = to(CLIENT, mesh.hear(OTHER, commit(1, 2, 4, b"b", "stop")))
    assert tokens == TokensNotice(1, 0, 1, b"b", (9,), is_last=True)
    assert isinstance(finished, FinishedNotice)
    # What it did on both.
    assert (finished.num_tokens, finished.figures.num_plain_steps) == (2, 2)
    assert mesh.state._serving.ledger.streams == {}


def test_streams_of_a_lost_target_find_room_on_the_others_and_the_rest_waits() -> None:
    mesh = make_mesh(max_streams=2)
    for number in (1, 2):
        mesh.hear(CLIENT, make_submit(number))
    mesh.join(OTHER, "target", make_profile(max_streams=1))
    assert opened(mesh.hear(TARGET, Bye("over")), OTHER) == [1]
    assert opened(mesh.hear(OTHER, commit(1, 2, 3, b"a", "stop")), OTHER) == [2]


def test_a_target_that_comes_back_gets_its_streams_back_as_new_ones() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit(1, num_choices=2))
    mesh.state.peer_gone(TARGET, 0.0)
    sends = mesh.join(b"again", "target", make_profile(), name="target")
    # One of them may be what it died of: the other one comes later.
    assert opened(sends, b"again") == [1]
    # What it says of the old ones is of another generation.
    before = mesh.state._roster.schedulers()[0][1].num_stale
    assert mesh.hear(b"again", StreamReadyNotice(1, 1)) == []
    assert mesh.state._roster.schedulers()[0][1].num_stale == before + 1
    mesh.hear(b"again", StreamReadyNotice(1, 2))
    assert opened(mesh.hear(b"again", commit(1, 2, 3, b"a")), b"again") == [2]


def test_texts_that_a_lost_target_was_to_tokenize_go_to_another() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit(prompt="hi", prompt_token_ids=()))
    mesh.state.peer_gone(TARGET, 0.0)
    sends = mesh.join(OTHER, "target", make_profile())
    assert to(OTHER, sends)[1:] == [TokenizeRequest(1, "hi")]
    assert opened(mesh.hear(OTHER, TokenizeReply(1, "", (4, 5))), OTHER) == [1]


def test_a_target_that_comes_in_time_ends_the_wait() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit())
    mesh.hear(TARGET, Bye("over"))
    mesh.join(OTHER, "target", make_profile(model_hash="another"))
    mesh.join(b"late", "target", make_profile())
    assert mesh.state._serving.ledger.requests[CLIENT, 1].stranded_at is None


def test_a_request_that_waits_for_a_target_can_be_cancelled() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit())
    mesh.state.peer_gone(TARGET, 0.0)
    mesh.hear(CLIENT, CancelRequest(1))
    assert opened(mesh.join(OTHER, "target", make_profile()), OTHER) == []
    assert mesh.state._serving.ledger.requests == {}


def test_a_client_and_its_target_may_fall_silent_together() -> None:
    """Whoever of them joined first."""
    mesh = Mesh()
    mesh.join(CLIENT, "client")
    mesh.join(TARGET, "target", make_profile())
    mesh.hear(CLIENT, make_submit())
    mesh.hear(TARGET, StreamReadyNotice(1, 1))
    mesh.state.tick(100.0)
    assert mesh.state.roles() == {}
    assert mesh.state._serving.ledger.streams == {}
    assert mesh.state._serving.ledger.requests == {}
    assert len(mesh.state._serving.placement.waiting) == 0


def prompt_scores(stream_id: int, generation: int, position: int, count: int) -> PromptScoresNotice:
    scores = tuple(TokenScores(Score(i, -0.5, b"x"), ()) for i in range(count))
    return PromptScoresNotice(stream_id, generation, position, scores)


def test_the_other_choices_begin_when_the_client_has_all_scores_of_their_prompt() -> None:
    mesh = make_mesh()
    sends = mesh.hear(CLIENT, make_submit(num_choices=3, scores_prompt=True))
    assert opened(sends, TARGET) == [1]
    (told,) = mesh.hear(TARGET, prompt_scores(1, 1, 1, 1))
    assert told == Send(CLIENT, PromptLogprobsNotice(1, 1, prompt_scores(1, 1, 1, 1).scores))
    sends = mesh.hear(TARGET, prompt_scores(1, 1, 2, 1))
    assert [type(m) for m in to(CLIENT, sends)] == [PromptLogprobsNotice]
    assert opened(sends, TARGET) == [2, 3]
    # Told again, and of a stream that is not there.
    assert mesh.hear(TARGET, prompt_scores(1, 1, 1, 2)) == []
    before = mesh.state.num_stale
    assert mesh.hear(TARGET, prompt_scores(7, 1, 1, 2)) == []
    assert mesh.hear(TARGET, prompt_scores(1, 2, 1, 2)) == []
    assert mesh.state.num_stale == before + 2


def test_scores_of_more_than_the_prompt_are_nobodys() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit(num_choices=2, scores_prompt=True))
    (told, _) = mesh.hear(TARGET, prompt_scores(1, 1, 1, 5))
    assert len(told.message.scores) == 2
    assert mesh.hear(TARGET, prompt_scores(1, 1, 3, 1)) == []
    assert len(mesh.state._serving.placement.waiting) == 0


def test_scores_that_nobody_asked_for_place_nobody_anew() -> None:
    mesh = make_mesh(max_streams=1)
    mesh.hear(CLIENT, make_submit(num_choices=2))
    before = mesh.state.num_stale
    for position in (1, 2):
        assert mesh.hear(TARGET, prompt_scores(1, 1, position, 1)) == []
    assert mesh.state.num_stale == before + 2
    assert len(mesh.state._serving.placement.waiting) == 1
    assert opened(mesh.hear(TARGET, finish(1)), TARGET) == [2]


def test_a_prompt_of_one_token_has_no_scores_to_wait_for() -> None:
    mesh = make_mesh()
    submit = make_submit(num_choices=2, scores_prompt=True, prompt_token_ids=(9,))
    assert opened(mesh.hear(CLIENT, submit), TARGET) == [1, 2]


def test_scores_that_were_lost_are_asked_for_anew() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit(num_choices=2, scores_prompt=True))
    sends = mesh.hear(TARGET, prompt_scores(1, 1, 2, 1))
    assert failure(sends) == ("left", "scores of the prompt were lost on the way")
    assert to(TARGET, sends) == [CloseStreamNotice(1, 1)]
    assert mesh.state._serving.ledger.streams == {}


def test_choices_that_wait_for_scores_can_be_cancelled() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit(num_choices=2, scores_prompt=True))
    assert to(TARGET, mesh.hear(CLIENT, CancelRequest(1))) == [CloseStreamNotice(1, 1)]
    assert mesh.state._serving.ledger.requests == {} == mesh.state._serving.ledger.streams


def test_a_prompt_that_another_target_scores_anew_is_told_once() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit(scores_prompt=True, num_logprobs=0))
    mesh.hear(TARGET, prompt_scores(1, 1, 1, 1))
    mesh.join(OTHER, "target", make_profile())
    mesh.hear(TARGET, Bye("over"))
    (told,) = to(CLIENT, mesh.hear(OTHER, prompt_scores(1, 2, 1, 2)))
    assert (told.position, len(told.scores)) == (2, 1)


def test_a_client_is_told_scores_and_guesses_of_its_tokens() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit(num_logprobs=0))
    mesh.hear(TARGET, StreamReadyNotice(1, 1))
    scores = prompt_scores(1, 1, 1, 2).scores
    # A third guess was right and ended the text: no token of it.
    entry = CommitEntry(1, 1, 3, 2, 4, 3, "stop", b"ab", scores)
    tokens, _ = to(CLIENT, mesh.hear(TARGET, CommitReply(0.0, (entry,), (9, 8))))
    assert tokens == TokensNotice(1, 0, 0, b"ab", (9, 8), 4, 2, scores, is_last=True)


def test_a_target_that_does_not_score_what_it_was_to_ends_the_request() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit(num_logprobs=0))
    mesh.hear(TARGET, StreamReadyNotice(1, 1))
    sends = mesh.hear(TARGET, commit(1, 1, 3, b"a"))
    assert failure(sends) == (
        "unavailable",
        "the target sent another number of log-probabilities than of tokens",
    )


def test_only_bad_requests_are_told_as_such_by_targets() -> None:
    for code, told in (("bad_request", "bad_request"), ("nonsense", "unavailable")):
        mesh = make_mesh()
        mesh.hear(CLIENT, make_submit())
        assert failure(mesh.hear(TARGET, StreamFailedNotice(1, 1, "no", code))) == (told, "no")


def test_where_only_the_prompt_is_scored_no_draft_node_is_asked() -> None:
    mesh = make_mesh(with_draft=True)
    sends = mesh.hear(CLIENT, make_submit(max_tokens=0, scores_prompt=True))
    assert (opened(sends, TARGET), to(DRAFT, sends)) == ([1], [])
    mesh.hear(TARGET, prompt_scores(1, 1, 1, 2))
    over = CommitReply(0.0, (CommitEntry(1, 1, 3, 0, 0, 0, "length", b""),), ())
    (finished,) = to(CLIENT, mesh.hear(TARGET, over))
    assert (finished.num_tokens, finished.finish_reason) == (0, "length")
    assert finished.figures.num_plain_steps == 0
