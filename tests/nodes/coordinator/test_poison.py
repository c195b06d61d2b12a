"""Requests that kill the targets which serve them, among requests that do not."""

from __future__ import annotations

import random
from typing import Any

import pytest

from airdraft.mesh.messages import Ping, Pong, Refuse
from airdraft.nodes.coordinator.requests.suspects import PROVEN_S, RETURN_S, SUSPECTED_S
from airdraft.nodes.coordinator.requests.texts import MAX_AT_ONCE
from airdraft.nodes.messages import OpenStreamRequest, StreamFailedNotice, TokenizeRequest
from tests.nodes.builders import make_profile
from tests.nodes.coordinator.fleet import Fleet, profile
from tests.nodes.coordinator.script import CLIENT, TEXT_PROMPT, Mesh, Sends, mesh_of

NOW = 2 * 86_400.0
T = [b"t%d" % number for number in range(9)]


def make_mesh(num_targets: int = 1, num_requests: int = 0, **changes: Any) -> Mesh:
    """A mesh of a client and some targets, in which two days pass before the first request."""
    mesh = mesh_of(**{peer.decode(): make_profile() for peer in T[:num_targets]})
    for number in range(1, num_requests + 1):
        mesh.submit(number, NOW, **changes)
    return mesh


def make_served(num_targets: int, **changes: Any) -> tuple[Mesh, bytes]:
    """A mesh with one request, and the target that serves it."""
    mesh = make_mesh(num_targets)
    (name,) = mesh.submit(1, NOW, **changes).where()
    return mesh, name.encode()


def join(mesh: Mesh, peer: bytes, now: float, **changes: Any) -> Sends:
    """A new process joins, by the name of the one before."""
    incarnation = round(1000 * now) + 1
    return mesh.join(peer, "target", make_profile(**changes), now=now, incarnation=incarnation)


def die(mesh: Mesh, peer: bytes, now: float, *, is_heard: bool = True) -> Sends:
    """A target's process ends. is_heard: it has answered the Ping that preceded the request."""
    if is_heard:
        mesh.hear(peer, Pong(2**62, 1), now - 0.01)
    return mesh.gone(peer, now)


def placed(sends: Sends) -> list[tuple[str, int]]:
    opening = [send for send in sends if isinstance(send.message, OpenStreamRequest)]
    return [(send.peer.decode(), send.message.stream_id) for send in opening]


def test_a_request_that_ends_its_target_is_tried_once_more_where_that_one_returns() -> None:
    mesh, first = make_served(3)
    assert die(mesh, first, NOW + 1) == []
    sends = join(mesh, first, NOW + 3)
    # A Ping goes before it, whose answer tells that the target was there.
    assert [type(m) for m in sends.to(first)[1:]] == [Ping, OpenStreamRequest]
    # Whether that process died, or only its connection, is known when the next one comes.
    assert die(mesh, first, NOW + 4) == []
    assert mesh.tick(NOW + 10).where() == []
    assert join(mesh, first, NOW + 11).to(CLIENT)[0].reason == (
        f"this request ended the targets {first.decode()}: it is not tried again"
    )
    status = mesh.status(NOW + 11)
    assert (status.num_streams, status.totals.requests["internal"]) == (0, 1)


@pytest.mark.parametrize("how", ["gone", "silent"])
def test_where_its_target_does_not_return_another_one_has_it_soon(how: str) -> None:
    """A machine without power does not return."""
    mesh, first = make_served(3)
    lost_at = NOW + 1 if how == "gone" else NOW + 6
    if how == "gone":
        die(mesh, first, lost_at)
    else:
        assert mesh.tick(lost_at, first).where() == []
    assert mesh.tick(lost_at + RETURN_S - 0.1).where() == []
    (name,) = mesh.tick(lost_at + RETURN_S).where()
    assert name != first.decode()
    stream_id, peer = 1, name.encode()
    mesh.ready(stream_id, 2, peer, lost_at + 5)
    assert mesh.commit(stream_id, generation=2, peer=peer, now=lost_at + 5).to(CLIENT)


def test_each_of_two_requests_has_another_target_when_its_own_time_has_come() -> None:
    mesh = make_mesh(3)
    lost = [mesh.submit(number, NOW).where()[0] for number in (1, 2)]
    for number, name in enumerate(lost):
        die(mesh, name.encode(), NOW + 1 + number)
    for number in range(2):
        assert mesh.tick(NOW + 1 + number + RETURN_S - 0.1).where() == []
        sends = mesh.tick(NOW + 1 + number + RETURN_S)
        ((name, stream_id),) = placed(sends)
        assert (name in lost, stream_id) == (False, 1 + number)
        # A token clears it, and leaves the target for the other one.
        mesh.ready(stream_id, 2, name.encode(), NOW + 1 + number + RETURN_S)
        mesh.commit(stream_id, generation=2, peer=name.encode(), now=NOW + 1 + number + RETURN_S)


def test_of_one_request_two_targets_may_die_but_never_a_third() -> None:
    mesh, first = make_served(3)
    die(mesh, first, NOW + 1)
    (second,) = mesh.tick(NOW + 1 + RETURN_S).where()
    die(mesh, second.encode(), NOW + 6)
    assert mesh.tick(NOW + 30).where() == []
    # Neither machine has returned, so nobody knows whether the request is to blame.
    sends = mesh.tick(NOW + 37)
    code, reason = sends.failure()
    assert code == "unavailable"
    assert f"{first.decode()} and {second} were lost while they read this request" in reason
    # It is not tried if it is sent again, but it is after a while.
    assert mesh.submit(2, NOW + 38).failure()[0] == "unavailable"
    assert mesh.submit(3, NOW + 38 + SUSPECTED_S).where() != []


def test_a_cut_connection_counts_against_nobody() -> None:
    mesh, first = make_served(2)
    die(mesh, first, NOW + 1)
    (second,) = mesh.tick(NOW + 1 + RETURN_S).where()
    die(mesh, second.encode(), NOW + 6)
    # The same process is there again, so one death is left.
    sends = mesh.join(second.encode(), "target", make_profile(), now=NOW + 7)
    assert sends.failures() == []
    assert mesh.tick(NOW + 6 + RETURN_S).where() + sends.where() == [second]


@pytest.mark.parametrize("begun", [1, 2])
def test_a_choice_that_had_a_token_goes_on_at_once_and_the_other_one_a_little_later(
    begun: int,
) -> None:
    mesh = make_mesh()
    mesh.submit(1, NOW, num_choices=2)
    mesh.ready(begun, peer=T[0], now=NOW)
    mesh.commit(begun, peer=T[0], now=NOW)
    mesh.join(T[1], "target", make_profile(), now=NOW)
    # The choice that had a token goes on elsewhere; the other one waits for its old target.
    assert placed(die(mesh, T[0], NOW + 1)) == [("t1", begun)]
    mesh.ready(begun, 2, T[1], NOW + 2)
    assert placed(mesh.commit(begun, 4, generation=2, peer=T[1], now=NOW + 2)) == []
    assert mesh.tick(NOW + 1 + RETURN_S).where() == ["t1"]


@pytest.mark.parametrize("how", ["given up", "cancelled"])
def test_a_request_that_is_asked_again_is_recognised(how: str) -> None:
    """Clients do so by themselves, a moment after a request has failed."""
    mesh, first = make_served(1)
    if how == "cancelled":
        mesh.cancel(1, NOW + 0.1)
    die(mesh, first, NOW + 1)
    assert bool(mesh.tick(NOW + 32).failures()) == (how == "given up")
    join(mesh, first, NOW + 33)
    # Nobody knows yet what the target died of; another seed makes no difference.
    assert mesh.submit(2, NOW + 34, seed=99).said(Ping) != []
    # Others are served.
    assert mesh.submit(3, NOW + 34, prompt_token_ids=(8, 9)).where() != []
    die(mesh, first, NOW + 36)
    assert join(mesh, first, NOW + 37).failures() == [(2, "internal")]
    code, reason = mesh.submit(4, NOW + 38).failure()
    assert code == "bad_request"
    assert reason.startswith(f"the same request ended the targets {first.decode()} before")
    # It is tried again some day, because another build may read it by then.
    mesh.tick(NOW + 37 + PROVEN_S)
    assert mesh.submit(5, NOW + 37 + PROVEN_S).where() != []


def test_what_is_proven_of_a_request_stays_when_a_copy_of_it_is_only_suspected() -> None:
    mesh = make_mesh(2, 2)
    first, second = T[:2]
    die(mesh, first, NOW + 1)
    join(mesh, first, NOW + 2)
    die(mesh, first, NOW + 3)
    assert join(mesh, first, NOW + 4).failures() == [(1, "internal")]
    mesh.cancel(2, NOW + 5)
    die(mesh, second, NOW + 6)
    assert mesh.submit(3, NOW + 100).failures() == [(3, "bad_request")]


def test_an_error_of_a_suspect_that_ends_no_target_proves_nothing() -> None:
    mesh, first = make_served(2)
    die(mesh, first, NOW + 1)
    (opening,) = join(mesh, first, NOW + 2).openings()
    failed = StreamFailedNotice(opening.stream_id, opening.generation, "no numbers", "internal")
    assert mesh.hear(first, failed, NOW + 3).failures() == [(1, "internal")]
    # It is suspected for a minute, and not refused for an hour.
    assert mesh.submit(2, NOW + 4).where() == [first.decode()]


def test_asking_again_does_not_keep_a_suspicion_that_nothing_adds_to() -> None:
    """An equal request of somebody else may be harmless, such as that of a health check."""
    mesh, first = make_served(2)
    mesh.cancel(1, NOW)
    die(mesh, first, NOW + 1)
    for number in range(2, 9):
        now = NOW + 8 * number
        sends = mesh.submit(number, now)
        assert (sends.said(Ping) == []) == (now >= NOW + 1 + SUSPECTED_S)
        mesh.cancel(number, now)


def test_a_target_whose_process_is_there_again_did_not_die_but_one_that_is_replaced_did() -> None:
    mesh, first = make_served(2)
    # Its connection was cut.
    mesh.gone(first, NOW + 1)
    sends = mesh.join(first, "target", make_profile(), now=NOW + 5)
    (name,) = sends.where()
    # A Ping would go before what may have ended it.
    assert sends.said(Ping) == []
    sends = join(mesh, name.encode(), NOW + 6)
    assert sends.where() == [name]
    assert sends.said(Ping) != []


def test_a_drained_target_that_asks_to_join_again_did_not_die() -> None:
    mesh, first = make_served(1)
    mesh.command("drain", first.decode(), NOW + 1)
    mesh.gone(first, NOW + 1)
    (other,) = (peer for peer in T[:2] if peer != first)
    assert placed(join(mesh, other, NOW + 2)) == []
    sends = mesh.greet(first, "target", make_profile(), now=NOW + 3)
    assert [type(m) for m in sends.to(first)] == [Refuse]
    assert placed(sends) == [(other.decode(), 1)]


@pytest.mark.parametrize("how", ["bye", "drop", "revoked"])
def test_targets_that_say_bye_or_are_told_to_go_did_not_die(how: str) -> None:
    mesh = make_mesh(1, 1)
    for k in range(1, 8):
        if how == "bye":
            mesh.bye(T[k - 1], NOW + k)
        elif how == "revoked":
            mesh.state.revoked(T[k - 1], NOW + k)
        else:
            mesh.command("drop", T[k - 1].decode(), NOW + k)
        # Not even suspected: no Ping goes before it.
        sends = join(mesh, T[k], NOW + k)
        assert (sends.said(Ping, T[k]), sends.opened(T[k])) == ([], [1])


def test_a_verdict_clears_those_who_were_there_with_the_culprit() -> None:
    mesh = make_mesh()
    for number in (1, 2, 3):
        mesh.submit(number, NOW, prompt_token_ids=(number, 2))
    die(mesh, T[0], NOW + 1)
    join(mesh, T[1], NOW + 1)
    assert placed(join(mesh, T[0], NOW + 2)) == [("t0", 1)]
    assert placed(die(mesh, T[0], NOW + 3)) == []
    sends = join(mesh, T[0], NOW + 3.5)
    assert sends.failures() == [(1, "internal")]
    # Now any target may have them, together.
    assert {number for _, number in placed(sends)} == {2, 3}
    assert sends.said(Ping) == []


def test_a_text_that_has_begun_goes_on_elsewhere_and_a_token_there_clears_it() -> None:
    mesh, peer = make_served(2, max_tokens=50)
    mesh.ready(peer=peer)
    mesh.commit(peer=peer)
    for k in range(12):
        now = NOW + 10 * k
        sends = die(mesh, peer, now)
        join(mesh, peer, now)
        ((name, _),) = placed(sends)
        peer = name.encode()
        mesh.ready(1, k + 2, peer, now)
        assert mesh.commit(1, 4 + k, generation=k + 2, peer=peer, now=now).to(CLIENT)


def test_suspects_are_tried_one_at_a_time_and_new_requests_need_not_wait() -> None:
    mesh = make_mesh(1, 3)
    assert die(mesh, T[0], NOW).where() == []
    assert placed(join(mesh, T[0], NOW + 1, max_streams=5)) == [("t0", 1)]
    # There is room for the other suspects and one more.
    assert mesh.submit(4, NOW + 4).opened(T[0]) == [4]
    assert mesh.submit(5, NOW + 5).opened(T[0]) == [5]
    assert mesh.submit(6, NOW + 6).opened(T[0]) == []
    mesh.ready(1, 2, T[0])
    assert mesh.commit(1, generation=2, peer=T[0]).opened(T[0]) == [2]
    # One that ends makes way as well.
    assert 3 in mesh.finish(2, generation=2, peer=T[0]).opened(T[0])


def test_a_drain_moves_no_suspect_to_where_another_one_is_tried() -> None:
    mesh = make_mesh(1, 2, max_tokens=50)
    for number in (1, 2):
        mesh.ready(number, peer=T[0], now=NOW)
        mesh.commit(number, peer=T[0], now=NOW)
    for peer in T[1:3]:
        mesh.join(peer, "target", make_profile(), now=NOW)
    places = {number: name for name, number in placed(die(mesh, T[0], NOW + 1))}
    assert sorted(places.values()) == ["t1", "t2"]
    assert placed(mesh.command("drain", places[1], NOW + 2)) == []
    other = places[2].encode()
    mesh.ready(2, 2, other, NOW + 3)
    # A token clears the one that was tried there, and the other one may come.
    mesh.commit(2, 4, generation=2, peer=other, now=NOW + 3)
    assert placed(mesh.tick(NOW + 3)) == [(places[2], 1)]


def test_a_target_that_had_not_heard_of_a_suspect_did_not_die_of_it() -> None:
    """A network switch is off: one target after the other is found to be gone."""
    mesh = make_mesh(1, 1)
    for k in range(1, 8):
        assert die(mesh, T[0], NOW + k, is_heard=False).failures() == []
        assert join(mesh, T[0], NOW + k).where() == ["t0"]
        # An answer that was on its way already proves nothing.
        mesh.hear(T[0], Pong(1, 1), NOW + k + 0.1)


@pytest.mark.parametrize("model", ["toy-1", "other"])
def test_suspects_of_one_target_do_not_keep_others_from_another(model: str) -> None:
    mesh = make_mesh(1, 2)
    die(mesh, T[0], NOW)
    content = {} if model == "toy-1" else {"model": model, "model_hash": "else"}
    join(mesh, T[1], NOW + 1, max_streams=1, **content)
    # They wait for room on the one that has died, where one of them is tried.
    assert placed(join(mesh, T[0], NOW + 1, max_streams=1)) == [("t0", 1)]
    assert mesh.submit(3, NOW + 2, model=model).opened(T[1]) == [3]


def test_one_choice_that_ends_targets_ends_its_request() -> None:
    """The second of three: the others go on until it is opened."""
    mesh = make_mesh(1, 1, num_choices=3, max_tokens=50)
    assert die(mesh, T[0], NOW + 1).failures() == []
    sends = join(mesh, T[0], NOW + 1)
    while placed(sends) != [("t0", 2)]:
        ((_, stream_id),) = placed(sends)
        mesh.ready(stream_id, 2, T[0], NOW + 1)
        sends = mesh.commit(stream_id, generation=2, peer=T[0], now=NOW + 1)
    die(mesh, T[0], NOW + 2)
    assert join(mesh, T[0], NOW + 3).failures() == [(1, "internal")]


def test_texts_to_be_tokenized_are_no_suspects() -> None:
    mesh = make_mesh(1, 5, **TEXT_PROMPT)
    die(mesh, T[0], NOW + 1)
    assert len(join(mesh, T[1], NOW + 1).said(TokenizeRequest, T[1])) == MAX_AT_ONCE


# -- many requests ---------------------------------------------------------------------------------

POISON = (66, 66, 66)


def crowded(prompts: list[tuple[int, ...]], now: float) -> Fleet:
    """A fleet of three targets that is asked for all of these."""
    fleet = Fleet()
    for name in ("t0", "t1", "t2"):
        fleet.join(name, profile("a"))
    fleet.now = now
    for number, prompt in enumerate(prompts):
        fleet.submit(number, prompt_token_ids=prompt, max_tokens=20)
    return fleet


@pytest.mark.parametrize("place", range(0, 17, 4))
def test_a_poison_request_ends_few_targets_and_no_other_request(place: int) -> None:
    prompts = [POISON if number == place else (1 + number, 2, 3) for number in range(17)]
    fleet, order = crowded(prompts, NOW), random.Random(place)
    while fleet.opened:
        fleet.now += 0.05
        index = order.randrange(len(fleet.opened))
        peer, opened = fleet.opened[index]
        if opened.token_ids == POISON:
            fleet.die(peer.decode())
        else:
            fleet.answer(index)
    assert {number: failed.code for number, failed in fleet.failed.items()} == {place: "internal"}
    assert fleet.finished == {*range(17)} - {place}
    assert fleet.num_deaths <= 3


@pytest.mark.parametrize("seed", range(6))
def test_where_targets_die_at_random_only_requests_end_that_two_of_them_were_reading(
    seed: int,
) -> None:
    fleet, order = crowded([(1 + number, 2, 3) for number in range(60)], NOW), random.Random(seed)
    while fleet.opened:
        fleet.now += 0.2
        if order.random() < 0.15:
            fleet.die(order.choice(("t0", "t1", "t2")))
        else:
            fleet.answer(order.randrange(len(fleet.opened)))
    assert fleet.num_deaths > 1
    assert {failed.code for failed in fleet.failed.values()} <= {"internal"}
    assert {*fleet.failed} | fleet.finished == {*range(60)}
    # Of what a target that dies was reading, one at a time is tried again.
    assert len(fleet.failed) <= fleet.num_deaths
