"""A request from submit to its end: with the draft nodes that guess for it or without any, over a
target that is lost, and with scores."""

from __future__ import annotations

import pytest

from airdraft.nodes.coordinator.requests.submission import prompt_hash
from airdraft.nodes.coordinator.sends import Send
from airdraft.nodes.messages import (
    ChainPart,
    CloseStreamNotice,
    GuessNotice,
    LeaseRequest,
    OpenStreamRequest,
    PromptLogprobsNotice,
    PromptScoresNotice,
    RequestFailedNotice,
    Score,
    StartedNotice,
    StreamFailedNotice,
    StreamParkedNotice,
    StreamReadyNotice,
    TokenScores,
    TokensNotice,
)
from tests.nodes.builders import PROMPT, make_profile
from tests.nodes.coordinator.script import (
    CLIENT,
    DRAFT,
    OTHER,
    TARGET,
    TEXT_PROMPT,
    Mesh,
    Sends,
    make_mesh,
)


def test_a_request_runs_from_submit_to_finish() -> None:
    mesh = make_mesh(with_draft=True)
    sends = mesh.submit(gamma=0)
    kind = "integers", "toy-0-1", prompt_hash(PROMPT)
    started = StartedNotice(1, 7, 3, True, "toy-1", "toy-0.8", True, *kind, limit_s=3600.0)
    assert sends.to(CLIENT) == [started]
    assert sends.opened() == [1]
    for send in sends:
        mesh.state.sent(send, 100, 0.0)
    (lease,) = mesh.ready()
    assert isinstance(lease.message, LeaseRequest)
    (tokens,) = mesh.commit(token_ids=(8, 9), text=b"ab", num_bytes=30)
    assert tokens == Send(CLIENT, TokensNotice(1, 0, 0, b"ab", (8, 9)))
    tokens, finished = mesh.finish(1, 5, text=b"!", num_bytes=20)
    assert tokens.message == TokensNotice(1, 0, 2, b"!", (9,), is_last=True)
    assert (finished.message.num_tokens, finished.message.finish_reason) == (3, "stop")
    figures = finished.message.figures
    assert (figures.num_rounds, figures.num_plain_steps) == (0, 2)
    assert (figures.target_wire_bytes, figures.draft_wire_bytes) == (150, 0)
    assert figures.plain_reason == "passes without guesses: 2 as the request asks for none"
    # The id is free again.
    assert mesh.submit().opened() == [2]


def test_a_request_id_in_use_is_refused_and_the_first_request_goes_on(mesh: Mesh) -> None:
    mesh.submit()
    assert mesh.submit().failure() == ("bad_request", "request id 1 is in use")
    assert isinstance(mesh.ready()[0].message, LeaseRequest)


def test_without_a_target_a_request_is_refused() -> None:
    mesh = Mesh()
    mesh.join(CLIENT, "client")
    assert mesh.submit().failure() == ("unavailable", "no target node is in the mesh: start one")


def test_what_a_target_reads_of_prompts_beside_its_streams_counts_as_its_load(mesh: Mesh) -> None:
    (target,) = mesh.state.roster.targets()
    scheduler = target.scheduler
    mesh.submit()
    mesh.hear(TARGET, StreamReadyNotice(1, 1, 3), 1.0)
    shares = []
    for place, num_read in enumerate((0, 32)):
        mesh.commit(1, 3 + place, pass_s=0.01, num_read=num_read, now=1.0)
        shares.append(scheduler.target.prefill_share(1.0))
    assert shares[0] == 0 < shares[1]


def test_without_any_target_requests_wait_for_a_while_and_then_fail_with_its_name() -> None:
    mesh = make_mesh(max_streams=1)
    mesh.submit(1)
    mesh.submit(2, **TEXT_PROMPT)
    mesh.submit(3)
    assert mesh.gone(TARGET, 1.0).to(CLIENT) == []
    assert mesh.tick(30.9).said(RequestFailedNotice) == []
    failed = mesh.tick(31.0).said(RequestFailedNotice)
    assert {notice.code for notice in failed} == {"unavailable"}
    # Those placed there, those it tokenized for, and those that only waited for it.
    assert {notice.request_id: notice.reason for notice in failed} == {
        1: "target target left: connection gone; no other suitable target joined within 30 s",
        2: "target target left: connection gone; no other suitable target joined within 30 s",
        3: "all targets that could serve this request left; no other suitable target joined "
        "within 30 s",
    }
    assert mesh.num_under_way(31.0) == 0
    # A new target starts with nothing.
    assert mesh.join(OTHER, "target", make_profile()).opened() == []


@pytest.mark.parametrize(
    ("code", "told"), [("bad_request", "bad_request"), ("nonsense", "unavailable")]
)
def test_a_stream_that_a_target_refuses_fails_its_request_as_what_the_target_may_say(
    code: str, told: str
) -> None:
    mesh = make_mesh()
    mesh.submit(num_choices=2)
    sends = mesh.hear(TARGET, StreamFailedNotice(1, 1, "no", code))
    assert sends.failure() == (told, "no")
    # The other choice of the request ends too.
    assert sends.to(TARGET) == [CloseStreamNotice(2, 1)]


def test_a_message_that_breaks_the_limits_of_the_wire_ends_its_request_only(mesh: Mesh) -> None:
    (sent,) = [s for s in mesh.submit() if isinstance(s.message, OpenStreamRequest)]
    mesh.submit(2)
    out = mesh.undeliverable(sent, "9000 bytes, at most 8192")
    assert out.failure()[0] == "internal"
    assert mesh.finish(2).to(CLIENT)


# -- draft nodes ----------------------------------------------------------------------------------


def part(stream_id: int, start: int = len(PROMPT)) -> ChainPart:
    return ChainPart(stream_id, 1, 1, start, b"\xf0")


def test_a_target_that_cannot_roll_back_gets_no_draft() -> None:
    sends = make_mesh(with_draft=True, can_take_back=False).submit()
    assert (len(sends.opened()), sends.opened(DRAFT)) == (1, [])


def test_a_draft_that_left_a_mesh_without_targets_comes_back_as_what_it_is_then(mesh: Mesh) -> None:
    mesh.join(DRAFT, "draft", make_profile(0.8, max_streams=1))
    mesh.gone(TARGET)
    mesh.gone(DRAFT)
    mesh.join(b"another target", "target", make_profile())
    mesh.join(b"another draft", "draft", make_profile(0.8, max_streams=2), DRAFT.decode())
    # No more texts are told a draft node than it holds by now.
    told = [mesh.submit(number).opened(b"another draft") for number in (1, 2, 3)]
    assert told == [[1], [2], []]


def test_guesses_are_passed_on_and_charged_to_the_streams_that_are_not_over() -> None:
    mesh = make_mesh(with_draft=True)
    for stream_id in (1, 2, 3):
        mesh.submit(stream_id)
        for peer in (DRAFT, TARGET):
            mesh.ready(stream_id, peer=peer)
    assert CloseStreamNotice(3, 1) in mesh.cancel(3).to(DRAFT)
    sends = mesh.hear(DRAFT, GuessNotice((part(1), part(2), part(3)), (8, 9, 10)), num_bytes=60)
    assert sends == [Send(TARGET, GuessNotice((part(1), part(2)), (8, 9)))]
    assert mesh.hear(DRAFT, GuessNotice((part(3),), (8,))) == []
    (*_, finished) = mesh.finish().to(CLIENT)
    assert finished.figures.draft_wire_bytes == 20


def test_a_draft_that_refuses_a_stream_is_told_in_the_figures() -> None:
    mesh = make_mesh(with_draft=True)
    mesh.submit()
    mesh.hear(DRAFT, StreamFailedNotice(1, 1, "toy-0.8 is full"))
    mesh.ready()
    (*_, finished) = mesh.finish().to(CLIENT)
    assert finished.figures.plain_reason.endswith("(draft node draft: toy-0.8 is full)")


# -- targets that are lost ------------------------------------------------------------------------


def test_a_stream_of_a_lost_target_goes_on_from_its_journal() -> None:
    mesh = make_mesh(with_draft=True)
    mesh.begin()
    sends = mesh.gone(TARGET)
    # Nobody is there yet. The draft node is told, the client is not.
    assert sends.to(DRAFT) == [CloseStreamNotice(1, 1)]
    assert sends.to(CLIENT) == []
    sends = mesh.join(OTHER, "target", make_profile())
    (there,) = sends.openings(OTHER)
    assert (there.generation, there.num_prompt_tokens, there.token_ids) == (2, 3, (*PROMPT, 9))
    assert [m.generation for m in sends.openings(DRAFT)] == [2]
    mesh.ready(1, 2, OTHER)
    tokens, finished = mesh.finish(1, 4, peer=OTHER, generation=2).to(CLIENT)
    assert tokens == TokensNotice(1, 0, 1, b"a", (9,), is_last=True)
    # The figures count what it did on both targets.
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
    # Repeated scores, and those of a stream that is not there, are dropped.
    assert score(mesh, 1, 2) == score(mesh, 1, 2, 7) == score(mesh, 1, 2, generation=2) == []
    assert mesh.state.reporting.num_stale == 2
    # One token has no scores to wait for.
    asked = {"num_choices": 2, "scores_prompt": True, "prompt_token_ids": (9,)}
    assert mesh.submit(2, **asked).opened() == [4, 5]


def test_scores_that_nobody_asked_for_place_nobody_anew() -> None:
    mesh = make_mesh(max_streams=1)
    mesh.submit(num_choices=2)
    assert score(mesh, 1, 1) == score(mesh, 2, 1) == []
    assert mesh.state.reporting.num_stale == 2
    assert mesh.finish().opened() == [2]


@pytest.mark.parametrize("num_told", [0, 1])
def test_scores_that_were_lost_are_asked_for_anew(mesh: Mesh, num_told: int) -> None:
    """The first of them, or the last, which a target sends before any token."""
    mesh.submit(num_choices=2, scores_prompt=True)
    if num_told:
        score(mesh, 1, 1)
        sends = mesh.commit()
    else:
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
        "the target sent log-probabilities for another number of tokens",
    )


def test_where_only_the_prompt_is_scored_no_draft_node_is_asked() -> None:
    mesh = make_mesh(with_draft=True)
    sends = mesh.submit(max_tokens=0, scores_prompt=True)
    assert (sends.opened(), sends.to(DRAFT)) == ([1], [])
    score(mesh, 1, 2)
    (finished,) = mesh.commit(token_ids=(), finish_reason="length").to(CLIENT)
    assert (finished.num_tokens, finished.finish_reason) == (0, "length")
    assert finished.figures.num_plain_steps == 0


def test_a_parked_stream_is_left_alone_while_others_get_tokens_and_opened_anew_when_none_does(
    mesh: Mesh,
) -> None:
    for number in (1, 2):
        mesh.submit(number, max_tokens=250)
        mesh.ready(number)
    mesh.hear(TARGET, StreamParkedNotice(2, 1))
    for second in range(200):
        mesh.commit(1, 3 + second, now=second)
        assert mesh.tick(second).opened() == []
    opened = [stream_id for second in range(200, 300) for stream_id in mesh.tick(second).opened()]
    assert sorted(opened) == [1, 2]
