"""Requests that end the nodes which serve them, among others that do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mesh.messages import Bye, Ping, Pong
from nodes.coordinator.placing.remembered import PROVEN_S
from nodes.coordinator.requests.tokenizing import MAX_AT_ONCE
from nodes.coordinator.sends import Send
from nodes.engine.sampling import Sampling
from nodes.engine.toy import ToyConfig
from nodes.messages import (
    CancelRequest,
    OpenStreamRequest,
    RequestFailedNotice,
    StreamReadyNotice,
    TokenizeRequest,
)
from tests.nodes.builders import make_profile, make_submit
from tests.nodes.cluster_case import ClusterCase
from tests.nodes.coordinator.script import CLIENT, Mesh, failure, opened, to
from tests.nodes.coordinator.test_serving import commit
from tests.nodes.pure_cluster import PureCluster
from tests.nodes.pure_mesh import DraftCase, StreamCase

NOW = 2 * 86_400.0
T = [b"t%d" % number for number in range(9)]


def make_mesh(num_targets: int = 1) -> Mesh:
    """Of a client and some targets; nothing happens in it for two days, but where it is young."""
    mesh = Mesh()
    mesh.join(CLIENT, "client")
    for peer in T[:num_targets]:
        mesh.join(peer, "target", make_profile())
    return mesh


def join(mesh: Mesh, peer: bytes, now: float, **changes: Any) -> list[Send]:
    """A new process joins, by the name of the one before."""
    incarnation = round(1000 * now) + 1
    return mesh.join(peer, "target", make_profile(**changes), now=now, incarnation=incarnation)


def die(mesh: Mesh, peer: bytes, now: float, *, is_heard: bool = True) -> list[Send]:
    """A target's process ends. is_heard: it has answered the Ping before what it died of."""
    if is_heard:
        mesh.hear(peer, Pong(2**62, 1), now - 0.01)
    return mesh.state.peer_gone(peer, now)


def where(sends: Sequence[Send]) -> list[tuple[str, int]]:
    return [
        (send.peer.decode(), send.message.stream_id)
        for send in sends
        if isinstance(send.message, OpenStreamRequest)
    ]


def generation(sends: Sequence[Send], stream_id: int) -> int:
    (found,) = [
        send.message.generation
        for send in sends
        if isinstance(send.message, OpenStreamRequest) and send.message.stream_id == stream_id
    ]
    return int(found)


def later(mesh: Mesh, now: float) -> list[Send]:
    """Time passes in which everybody is heard of."""
    for peer in mesh.state._roster.peers():
        mesh.hear(peer, Pong(0, round(now)), now)
    return mesh.state.tick(now)


def failures(sends: Sequence[Send]) -> list[Send]:
    return [send for send in sends if isinstance(send.message, RequestFailedNotice)]


def test_a_request_that_ends_its_target_reaches_no_other_and_is_tried_there_once_more() -> None:
    mesh = make_mesh(3)
    mesh.hear(CLIENT, make_submit(), NOW)
    first = mesh.state._serving.ledger.target_of(1).encode()
    assert die(mesh, first, NOW + 1) == []
    sends = join(mesh, first, NOW + 3)
    # A Ping goes before it, whose answer tells that the target was there.
    assert [type(m) for m in to(first, sends)[1:]] == [Ping, OpenStreamRequest]
    code, reason = failure(die(mesh, first, NOW + 4))
    assert code == "internal"
    told = f"this request ended target nodes 2 times ({first.decode()}): it is not tried again"
    assert reason == told
    assert mesh.state._serving.ledger.requests == {}
    assert mesh.state._serving.ledger.outcomes["internal"] == 1


def test_where_its_target_does_not_return_it_ends_and_the_others_never_see_it() -> None:
    mesh = make_mesh(3)
    mesh.hear(CLIENT, make_submit(), NOW)
    first = mesh.state._serving.ledger.target_of(1).encode()
    die(mesh, first, NOW + 1)
    sends = later(mesh, NOW + 32)
    (told,) = failures(sends)
    assert told.message.code == "unavailable"
    assert "perhaps because of this request" in told.message.reason
    assert where(sends) == []


def test_who_asks_again_is_known() -> None:
    """Clients do so by themselves, a moment after a request has failed."""
    mesh = make_mesh(3)
    mesh.hear(CLIENT, make_submit(), NOW)
    first = mesh.state._serving.ledger.target_of(1).encode()
    die(mesh, first, NOW + 1)
    assert failures(later(mesh, NOW + 32)) != []
    # Nobody knows yet what the target died of; another seed makes no difference.
    assert where(mesh.hear(CLIENT, make_submit(2, seed=99), NOW + 33)) == []
    # Others are served.
    assert where(mesh.hear(CLIENT, make_submit(3, prompt_token_ids=(8, 9)), NOW + 34)) != []
    ((there, _),) = where(join(mesh, first, NOW + 35))
    assert there == first.decode()
    assert failure(die(mesh, first, NOW + 36))[0] == "internal"
    code, reason = failure(mesh.hear(CLIENT, make_submit(4), NOW + 37))
    assert (code, reason.partition(" (")[0]) == (
        "bad_request",
        "the same request ended target nodes before",
    )
    # Some day it may be another build that reads it.
    later(mesh, NOW + 36 + PROVEN_S)
    assert where(mesh.hear(CLIENT, make_submit(5), NOW + 36 + PROVEN_S)) != []


def test_a_request_that_was_cancelled_while_it_was_read_is_known_when_it_comes_again() -> None:
    mesh = make_mesh(2)
    mesh.hear(CLIENT, make_submit(), NOW)
    first = mesh.state._serving.ledger.target_of(1).encode()
    mesh.hear(CLIENT, CancelRequest(1), NOW + 0.1)
    die(mesh, first, NOW + 0.5)
    assert where(mesh.hear(CLIENT, make_submit(2), NOW + 1)) == []
    assert where(join(mesh, first, NOW + 2)) == [(first.decode(), 2)]


def test_a_target_whose_process_is_there_again_did_not_die_of_it() -> None:
    mesh = make_mesh(2)
    mesh.hear(CLIENT, make_submit(), NOW)
    first = mesh.state._serving.ledger.target_of(1).encode()
    # Its connection was cut.
    mesh.state.peer_gone(first, NOW + 1)
    sends = mesh.join(first, "target", make_profile(), now=NOW + 5)
    assert len(where(sends)) == 1
    assert not any(isinstance(send.message, Ping) for send in sends)


def test_a_verdict_clears_those_who_were_there_with_the_culprit() -> None:
    mesh = make_mesh(1)
    for number in (1, 2, 3):
        mesh.hear(CLIENT, make_submit(number, prompt_token_ids=(number, 2)), NOW)
    die(mesh, T[0], NOW + 1)
    join(mesh, T[1], NOW + 1)
    assert where(join(mesh, T[0], NOW + 2)) == [("t0", 1)]
    sends = die(mesh, T[0], NOW + 3)
    assert [send.message.request_id for send in failures(sends)] == [1]
    # Now another target may have them.
    assert where(sends) == [("t1", 2), ("t1", 3)]


def test_in_a_young_mesh_it_takes_more_of_them() -> None:
    mesh = make_mesh(1)
    mesh.hear(CLIENT, make_submit(), 1.0)
    num, now = 0, 1.0
    while mesh.state._serving.ledger.requests:
        now += 1.0
        num += 1
        die(mesh, T[0], now)
        join(mesh, T[0], now + 0.5)
    assert 3 <= num <= 12


def test_a_text_that_has_begun_goes_on_elsewhere_and_a_token_there_clears_it() -> None:
    mesh = make_mesh(2)
    mesh.hear(CLIENT, make_submit(max_tokens=50), NOW)
    mesh.hear(mesh.state._serving.ledger.target_of(1).encode(), StreamReadyNotice(1, 1), NOW)
    mesh.hear(mesh.state._serving.ledger.target_of(1).encode(), commit(1, 1, 3, b"a"), NOW)
    length = 4
    for k in range(12):
        now = NOW + 10 * k
        peer = mesh.state._serving.ledger.target_of(1).encode()
        sends = die(mesh, peer, now)
        join(mesh, peer, now)
        ((there, _),) = where(sends)
        number = generation(sends, 1)
        mesh.hear(there.encode(), StreamReadyNotice(1, number), now)
        mesh.hear(there.encode(), commit(1, number, length, b"a"), now)
        length += 1
    assert len(mesh.state._serving.ledger.requests) == 1


def test_suspects_are_tried_one_at_a_time_and_new_requests_need_not_wait() -> None:
    mesh = make_mesh(1)
    for number in (1, 2, 3):
        mesh.hear(CLIENT, make_submit(number), NOW)
    sends = die(mesh, T[0], NOW)
    assert where(sends) == []
    sends = join(mesh, T[0], NOW + 1, max_streams=5)
    assert where(sends) == [("t0", 1)]
    # There is room for the other suspects and one more.
    assert opened(mesh.hear(CLIENT, make_submit(4), NOW + 4), T[0]) == [4]
    assert opened(mesh.hear(CLIENT, make_submit(5), NOW + 5), T[0]) == [5]
    assert opened(mesh.hear(CLIENT, make_submit(6), NOW + 6), T[0]) == []
    mesh.hear(T[0], StreamReadyNotice(1, 2))
    sends = mesh.hear(T[0], commit(1, 2, 3, b"a"))
    assert opened(sends, T[0]) == [2]
    # One that ends makes way as well.
    sends = mesh.hear(T[0], commit(2, 2, 3, b"a", "stop"))
    assert 3 in opened(sends, T[0])


def test_who_was_beside_others_that_were_new_is_not_accused() -> None:
    mesh = make_mesh(1)
    mesh.hear(CLIENT, make_submit(1), NOW)
    die(mesh, T[0], NOW)
    for k in range(1, 6):
        assert where(join(mesh, T[0], NOW + k - 0.9)) != []
        # Another one has come meanwhile: one of them did it.
        mesh.hear(CLIENT, make_submit(10 + k), NOW + k - 0.5)
        assert failures(die(mesh, T[0], NOW + k)) == []


def test_a_target_that_had_not_heard_of_a_suspect_did_not_die_of_it() -> None:
    """A switch is off: one after the other is found to be gone."""
    mesh = make_mesh(1)
    mesh.hear(CLIENT, make_submit(), NOW)
    for k in range(1, 8):
        assert failures(die(mesh, T[0], NOW + k, is_heard=False)) == []
        join(mesh, T[0], NOW + k)
        # What was on its way already proves nothing.
        mesh.hear(T[0], Pong(1, 1), NOW + k + 0.1)
    assert len(mesh.state._serving.ledger.requests) == 1


def test_suspects_of_one_model_keep_no_room_of_another() -> None:
    mesh = make_mesh(1)
    mesh.join(b"other", "target", make_profile(model="other", model_hash="else", max_streams=1))
    for number in (1, 2, 3):
        mesh.hear(CLIENT, make_submit(number, model=make_profile().model), NOW)
    die(mesh, T[0], NOW)
    assert where(join(mesh, T[0], NOW, max_streams=1)) == [("t0", 1)]
    sends = mesh.hear(CLIENT, make_submit(4, model="other"), NOW + 4)
    assert opened(sends, b"other") == [4]


def test_suspects_of_one_target_do_not_keep_others_from_another() -> None:
    mesh = make_mesh(1)
    for number in (1, 2):
        mesh.hear(CLIENT, make_submit(number), NOW)
    die(mesh, T[0], NOW)
    join(mesh, T[1], NOW + 1, max_streams=1)
    # They wait for room on the one that has died, where one of them is tried.
    assert where(join(mesh, T[0], NOW + 1, max_streams=1)) == [("t0", 1)]
    assert opened(mesh.hear(CLIENT, make_submit(3), NOW + 2), T[1]) == [3]


def test_targets_that_say_bye_or_are_told_to_go_did_not_die() -> None:
    mesh = make_mesh(1)
    mesh.hear(CLIENT, make_submit(), NOW)
    for k in range(1, 8):
        mesh.hear(T[k - 1], Bye("over"), NOW + k)
        sends = join(mesh, T[k], NOW + k)
        # Not even suspected: no Ping goes before it.
        assert not any(isinstance(m, Ping) for m in to(T[k], sends))
    assert len(mesh.state._serving.ledger.requests) == 1


def test_one_choice_that_ends_targets_ends_its_request() -> None:
    mesh = make_mesh(1)
    mesh.hear(CLIENT, make_submit(num_choices=3, max_tokens=50), NOW)
    now, generations = NOW, {1: 1, 2: 1, 3: 1}
    lengths = {1: 3, 2: 3, 3: 3}
    k, ended = 0, list[Send]()
    while not ended:
        k += 1
        assert k < 9
        now += 1
        ended = failures(die(mesh, T[0], now))
        if ended:
            break
        sends = join(mesh, T[0], now)
        # The second one is the poison: others go on until it is opened.
        for _ in range(3):
            ((_, stream_id),) = where(sends)
            generations[stream_id] += 1
            if stream_id == 2:
                break
            mesh.hear(T[0], StreamReadyNotice(stream_id, generations[stream_id]), now)
            step = commit(stream_id, generations[stream_id], lengths[stream_id], b"a")
            sends = mesh.hear(T[0], step, now)
            lengths[stream_id] += 1
    assert k == 2
    assert len(ended) == 1


def test_texts_are_no_suspects_for_a_process_of_their_own_reads_them() -> None:
    mesh = make_mesh(1)
    for number in range(1, 6):
        submit = make_submit(number, prompt=f"text {number}", prompt_token_ids=())
        mesh.hear(CLIENT, submit, NOW)
    die(mesh, T[0], NOW + 1)
    sends = join(mesh, T[1], NOW + 1)
    tried = [m for m in to(T[1], sends) if isinstance(m, TokenizeRequest)]
    assert len(tried) == MAX_AT_ONCE


# -- whole clusters --------------------------------------------------------------------------------

POISON = (66, 66, 66)


class PoisonCluster(PureCluster):
    """Targets die in the pass after they were given a text that begins with POISON."""

    def __init__(self, case: ClusterCase, now: float) -> None:
        super().__init__(case)
        self.now = now
        self.num_killed = 0
        self.failed: dict[int, str] = {}
        while self.client.to_submit:
            self.client.submit()

    def _hand_over(self, sends: Sequence[Send]) -> None:
        super()._hand_over(sends)
        for send in sends:
            for node in self.targets:
                if node.peer == send.peer and isinstance(send.message, Ping):
                    node.outbox.append(Pong(send.message.seq, round(self.now)))

    def _node_steps(self, node: Any) -> None:
        held = node.engine.engine._streams.values() if node.role == "target" else ()
        if any(stream.spec.token_ids[:3] == POISON for stream in held):
            self.num_killed += 1
            # What it had said before arrives.
            while node.outbox:
                self._coordinator_takes(node)
            peer, node.peer, node.engine = node.peer, b"", None
            node.inbox.clear()
            self._carry_out(self.state.peer_gone(peer, self.now))
            return
        super()._node_steps(node)

    def _request_failed(self, message: RequestFailedNotice) -> None:
        self.failed[message.request_id] = message.code
        self.client.ended[message.request_id, 0] = message.code


def make_case(seed: int, streams: tuple[StreamCase, ...], num_deaths: int) -> ClusterCase:
    return ClusterCase(
        target=ToyConfig(num_cells=8000, max_sequences=20, seed=seed),
        num_targets=3,
        drafts=(
            DraftCase(
                agreement=0.9,
                num_cells=8000,
                max_sequences=20,
                max_batch_tokens=64,
                starts_alive=True,
            ),
        ),
        streams=streams,
        num_choices=(1,) * len(streams),
        num_deaths=num_deaths,
        num_draft_deaths=num_deaths // 2,
        num_moves=0,
        has_wild_policy=False,
        has_lookup=False,
        moves=b"",
        move_seed=seed,
        plans_later=bool(seed % 3),
        ways=((False, False),) * len(streams),
    )


def stream_case(prompt: tuple[int, ...], seed: int) -> StreamCase:
    return StreamCase(
        prompt=prompt,
        max_tokens=20,
        sampling=Sampling(temperature=1.0, seed=seed),
        stops=(),
        ignore_eog=True,
        gamma=None,
        is_cancelled=False,
    )


INNOCENTS = tuple(stream_case((1 + k, 2, 3, 4 + k), k) for k in range(16))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(0, 17, 3))
def test_a_poison_request_ends_few_targets_and_no_other_request(seed: int) -> None:
    poison = stream_case((*POISON, 5), 99)
    streams = (*INNOCENTS[:seed], poison, *INNOCENTS[seed:])
    cluster = PoisonCluster(make_case(seed, streams, 0), now=NOW)
    cluster.run()
    assert cluster.failed == {min(seed, 16): "internal"}
    assert cluster.num_killed <= 3


@pytest.mark.slow
def test_where_targets_die_at_random_nobody_is_accused() -> None:
    num_deaths = 0
    for seed in range(6):
        cluster = PoisonCluster(make_case(seed, INNOCENTS, 60), now=0.0)
        cluster.run()
        assert cluster.failed == {}
        num_deaths += 60 - cluster.deaths_left
    assert num_deaths > 30
