"""Who is served where: by predicted seconds a token, inside a numerics class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from mesh.messages import Pong
from nodes.coordinator.rebalancing import LOOK_S
from nodes.coordinator.sends import Send
from nodes.messages import (
    CloseStreamNotice,
    CommitEntry,
    CommitReply,
    EngineProfile,
    OpenStreamRequest,
    StartedNotice,
    StreamReadyNotice,
    TokensNotice,
)
from policies.joint import joint_plan
from policies.plan import Observation, Plan
from tests.nodes.builders import PROMPT, make_profile, make_submit
from tests.nodes.coordinator.test_state import CLIENT, OTHER, TARGET, Mesh, opened, to
from tests.nodes.scheduler.script import FixedPolicy

THIRD = b"third"


def profile(pass_ms: float, **changes: Any) -> EngineProfile:
    """Of a target whose passes take so long for one token, a fifth more for each other one."""
    made = make_profile(**changes)
    pass_s = pass_ms / 1e3
    decode = replace(made.decode, sizes=(1, 11), seconds=(pass_s, 3 * pass_s))
    return replace(made, decode=decode, prefill=replace(made.prefill, seconds=(pass_s,)))


def make_mesh(**targets: EngineProfile) -> Mesh:
    """Targets by name, in the order of joining, and a client."""
    mesh = Mesh(joint_plan)
    for name, its_profile in targets.items():
        mesh.join(name.encode(), "target", its_profile)
    mesh.join(CLIENT, "client")
    return mesh


def where(sends: Sequence[Send]) -> list[str]:
    """Targets that a stream is opened on, in order."""
    return [s.peer.decode() for s in sends if isinstance(s.message, OpenStreamRequest)]


def commit(
    stream_id: int, prefix_len: int, generation: int = 1, num_tokens: int = 1, pass_s: float = 0.0
) -> CommitReply:
    entry = CommitEntry(stream_id, generation, prefix_len, num_tokens, 0, 0, "", b"a" * num_tokens)
    return CommitReply(pass_s, (entry,), (9,) * num_tokens)


# -- new streams -----------------------------------------------------------------------------------


def test_streams_go_where_a_token_takes_the_least() -> None:
    mesh = make_mesh(slow=profile(20), fast=profile(10))
    placed = [where(mesh.hear(CLIENT, make_submit(n, max_tokens=200)))[0] for n in range(1, 9)]
    # 2 ms more for each stream: a sixth one makes it as slow as the other with its first.
    assert placed == [*["fast"] * 5, "slow", "fast", "fast"]


def test_equal_targets_take_turns() -> None:
    mesh = make_mesh(target=profile(10), other=profile(10))
    placed = [where(mesh.hear(CLIENT, make_submit(n)))[0] for n in range(1, 5)]
    assert sorted(placed[:2]) == sorted(placed[2:]) == ["other", "target"]


def test_a_short_answer_to_a_long_prompt_goes_where_the_prompt_is_read_sooner() -> None:
    reads_fast = profile(12)
    reads_fast = replace(reads_fast, prefill=replace(reads_fast.prefill, seconds=(1e-3,)))
    for max_tokens, wanted in ((10, "reads"), (1000, "decodes")):
        mesh = make_mesh(decodes=profile(10), reads=reads_fast)
        submit = make_submit(1, max_tokens=max_tokens, prompt_token_ids=(5,) * 1000)
        assert where(mesh.hear(CLIENT, submit)) == [wanted]


def test_choices_of_a_request_stay_where_their_prompt_is_read() -> None:
    mesh = make_mesh(target=profile(10), other=profile(10))
    long = make_submit(1, num_choices=2, max_tokens=20, prompt_token_ids=(5,) * 2000)
    assert len(set(where(mesh.hear(CLIENT, long)))) == 1


def test_a_new_request_may_go_to_any_class_of_its_model_and_stays_in_it() -> None:
    first = profile(10, numerics_class="a", max_streams=1)
    mesh = make_mesh(a=first, b=profile(30, numerics_class="b"), c=profile(10, model_hash="else"))
    sends = mesh.hear(CLIENT, make_submit(1, num_choices=2))
    # The second choice waits for the class of the first.
    assert where(sends) == ["a"]
    assert where(mesh.hear(CLIENT, make_submit(2))) == ["b"]
    mesh.hear(b"a", StreamReadyNotice(1, 1))
    finish = CommitEntry(1, 1, 3, 1, 0, 0, "stop", b"a")
    assert where(mesh.hear(b"a", CommitReply(0.0, (finish,), (9,)))) == ["a"]


@pytest.mark.parametrize("has_begun", [False, True])
def test_only_a_request_without_any_token_may_change_its_class(has_begun: bool) -> None:
    mesh = make_mesh(a=profile(10, numerics_class="a"), b=profile(30, numerics_class="b"))
    assert where(mesh.hear(CLIENT, make_submit(1))) == ["a"]
    mesh.hear(b"a", StreamReadyNotice(1, 1))
    if has_begun:
        mesh.hear(b"a", commit(1, 3))
    sends = mesh.state.peer_gone(b"a", 0.0)
    assert where(sends) == ([] if has_begun else ["b"])
    # The client is told of another class, which holds should it go on with another coordinator.
    told = [m.numerics_class for m in to(CLIENT, sends) if isinstance(m, StartedNotice)]
    assert told == ([] if has_begun else ["b"])
    assert where(mesh.join(b"a2", "target", profile(10, numerics_class="a"))) == (
        ["a2"] if has_begun else []
    )


def test_what_was_said_to_be_exact_stays_so() -> None:
    mesh = make_mesh(a=profile(10, numerics_class="a"))
    mesh.join(b"b", "target", profile(30, numerics_class="b", exact=False))
    assert where(mesh.hear(CLIENT, make_submit(1))) == ["a"]
    assert where(mesh.state.peer_gone(b"a", 0.0)) == []


def test_the_longest_text_that_any_target_of_the_model_holds_is_taken() -> None:
    mesh = make_mesh(small=profile(10, num_cells=100), large=profile(20, num_cells=4000))
    assert where(mesh.hear(CLIENT, make_submit(1, max_tokens=500))) == ["large"]


# -- who waits -------------------------------------------------------------------------------------


def test_higher_priorities_go_first_and_nobody_waits_for_ever() -> None:
    mesh = make_mesh(target=profile(10, max_streams=1))
    mesh.hear(CLIENT, make_submit(1))
    mesh.hear(CLIENT, make_submit(2, priority=1), now=0.0)
    for number, now in ((3, 0.5), (4, 44.9), (5, 45.1)):
        mesh.hear(CLIENT, make_submit(number, priority=10), now=now)
    served = []
    stream_id = 1
    for _ in range(4):
        finish = CommitEntry(stream_id, 1, 3, 1, 0, 0, "stop", b"a")
        (stream_id,) = opened(mesh.hear(TARGET, CommitReply(0.0, (finish,), (9,)), now=46.0))
        served.append(stream_id)
    assert served == [3, 4, 2, 5]


def test_the_policy_is_told_the_weight_of_a_stream() -> None:
    policy = FixedPolicy()
    mesh = Mesh(policy)
    mesh.join(TARGET, "target", make_profile())
    mesh.join(CLIENT, "client")
    mesh.hear(CLIENT, make_submit(priority=10))
    mesh.hear(TARGET, StreamReadyNotice(1, 1))
    assert [view.weight for view in policy.seen[-1].streams] == [2.0]


# -- who is better off elsewhere -------------------------------------------------------------------


def crowded(**changes: Any) -> Mesh:
    """Four long streams on a target, which are under way; and then another target."""
    mesh = make_mesh(target=profile(10))
    for number in range(1, 5):
        mesh.hear(CLIENT, make_submit(number, **{"max_tokens": 500, **changes}))
        mesh.hear(TARGET, StreamReadyNotice(number, 1))
        mesh.hear(TARGET, commit(number, 3))
    return mesh


def look(mesh: Mesh, now: float) -> list[Send]:
    for peer in mesh.state.peers():
        mesh.hear(peer, Pong(0, 1), now)
    return [s for s in mesh.state.tick(now) if isinstance(s.message, OpenStreamRequest)]


def test_streams_move_to_a_target_that_joins_one_request_at_a_time() -> None:
    mesh = crowded()
    mesh.join(OTHER, "target", profile(10))
    (moved,) = look(mesh, LOOK_S)
    assert moved.peer == OTHER
    opened_there = moved.message
    assert (opened_there.generation, opened_there.num_prompt_tokens) == (2, 3)
    # Prompt and what has been committed.
    assert opened_there.token_ids == (*PROMPT, 9)
    assert look(mesh, LOOK_S + 0.1) == []
    # 12 ms there and 14 here are near enough.
    mesh.hear(OTHER, StreamReadyNotice(opened_there.stream_id, 2), 2 * LOOK_S)
    assert len(look(mesh, 2 * LOOK_S)) <= 1
    assert look(mesh, 3 * LOOK_S) == []


def test_a_look_takes_a_few_plans_however_many_targets_there_are() -> None:
    """Everybody's messages wait for it; nobody is left out for it in the long run."""
    mesh = crowded()
    for number in range(8):
        name = f"other-{number}".encode()
        # Nearly as slow: nobody moves.
        mesh.join(name, "target", profile(40 + number))
    planned: list[int] = []

    def counting(seen: Observation) -> Plan:
        planned.append(len(seen.streams))
        return joint_plan(seen)

    for scheduler in mesh.state.schedulers:
        scheduler.forecast.cycle.policy = counting
    most = 0
    for step in range(1, 20):
        del planned[:]
        assert look(mesh, step * LOOK_S / 9 + 1e-6) == []
        most = max(most, len(planned))
    assert 0 < most <= 3


def test_what_the_old_target_still_says_is_dropped_and_the_client_sees_no_seam() -> None:
    mesh = crowded()
    mesh.join(OTHER, "target", profile(10))
    for peer in mesh.state.peers():
        mesh.hear(peer, Pong(0, 1), LOOK_S)
    sends = mesh.state.tick(LOOK_S)
    (stream_id,) = opened(sends, OTHER)
    assert CloseStreamNotice(stream_id, 1) in to(TARGET, sends)
    stale = mesh.hear(TARGET, commit(stream_id, 4))
    assert to(CLIENT, stale) == []
    mesh.hear(OTHER, StreamReadyNotice(stream_id, 2))
    (tokens,) = to(CLIENT, mesh.hear(OTHER, commit(stream_id, 4, generation=2)))
    assert isinstance(tokens, TokensNotice)
    assert (tokens.position, tokens.text) == (1, b"a")


def test_a_target_that_proves_slow_loses_streams() -> None:
    mesh = make_mesh(target=profile(10), other=profile(10))
    for number in (1, 2):
        (name,) = where(mesh.hear(CLIENT, make_submit(number, max_tokens=1500)))
        mesh.hear(name.encode(), StreamReadyNotice(number, 1))
        if name == "target":
            mine = number
    assert look(mesh, LOOK_S) == []
    for length in range(3, 60):
        mesh.hear(TARGET, commit(mine, length, pass_s=0.1))
    assert [send.peer for send in look(mesh, 2 * LOOK_S)] == [OTHER]


@pytest.mark.parametrize(
    "changes", [{"numerics_class": "else"}, {"model_hash": "else"}, {"num_cells": 100}]
)
def test_nobody_moves_to_where_its_text_would_change_or_not_fit(changes: dict[str, Any]) -> None:
    mesh = crowded()
    mesh.join(OTHER, "target", profile(1, **changes))
    assert look(mesh, LOOK_S) == []


def test_nobody_moves_for_the_last_few_tokens() -> None:
    mesh = crowded(max_tokens=3)
    # Reading takes 320 ms a piece, all that is to come 32.
    slow_reader = profile(8)
    slow_reader = replace(slow_reader, prefill=replace(slow_reader.prefill, seconds=(0.32,)))
    mesh.join(OTHER, "target", slow_reader)
    assert look(mesh, LOOK_S) == []


def test_one_that_fits_nowhere_keeps_nobody_from_moving() -> None:
    mesh = crowded()
    mesh.hear(CLIENT, make_submit(9, max_tokens=1500))
    mesh.hear(TARGET, StreamReadyNotice(5, 1))
    mesh.join(OTHER, "target", profile(5, num_cells=600))
    (moved,) = look(mesh, LOOK_S)
    assert moved.message.stream_id != 5


def test_all_choices_of_a_request_move_together() -> None:
    mesh = make_mesh(target=profile(30))
    mesh.hear(CLIENT, make_submit(1, num_choices=3, max_tokens=500))
    for stream_id in (1, 2, 3):
        mesh.hear(TARGET, StreamReadyNotice(stream_id, 1))
    mesh.join(OTHER, "target", profile(10))
    moved = look(mesh, LOOK_S)
    assert [(s.peer, s.message.stream_id) for s in moved] == [(OTHER, i) for i in (1, 2, 3)]
    # And not back, or on, before long.
    mesh.join(THIRD, "target", profile(1))
    for stream_id in (1, 2, 3):
        mesh.hear(OTHER, StreamReadyNotice(stream_id, 2))
    assert look(mesh, 2 * LOOK_S) == []
    assert len(look(mesh, 7 * LOOK_S)) == 3
