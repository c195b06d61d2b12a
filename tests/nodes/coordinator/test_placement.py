"""Who is served where: by predicted seconds a token, inside a numerics class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from mesh.messages import Bye
from nodes.coordinator.sends import Send
from nodes.messages import (
    MAX_GAMMA,
    CommitEntry,
    CommitReply,
    EngineProfile,
    OpenStreamRequest,
    StartedNotice,
    StreamReadyNotice,
)
from tests.nodes.builders import make_profile, make_submit
from tests.nodes.coordinator.script import CLIENT, TARGET, Mesh, opened, to


def profile(pass_ms: float, **changes: Any) -> EngineProfile:
    """Of a target whose passes take so long for one token, a fifth more for each other one."""
    made = make_profile(**changes)
    pass_s = pass_ms / 1e3
    decode = replace(made.decode, sizes=(1, 11), seconds=(pass_s, 3 * pass_s))
    return replace(made, decode=decode, prefill=replace(made.prefill, seconds=(pass_s,)))


def make_mesh(**targets: EngineProfile) -> Mesh:
    """Targets by name, in the order of joining, and a client."""
    mesh = Mesh()
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


def test_a_request_goes_to_one_class_of_its_model_and_stays_in_it() -> None:
    first = profile(10, numerics_class="a", max_streams=1)
    mesh = make_mesh(a=first, b=profile(30, numerics_class="b"), c=profile(10, model_hash="else"))
    sends = mesh.hear(CLIENT, make_submit(1, num_choices=2))
    # The second choice waits for the class of the first, and so does everybody else.
    assert where(sends) == ["a"]
    assert where(mesh.hear(CLIENT, make_submit(2))) == []
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
    sends = mesh.hear(b"a", Bye("over"))
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


def test_what_is_to_fit_fits_on_all_targets_that_leave_room_for_an_answer() -> None:
    """So that any of them can take it over."""
    cells = {"tiny": 900, "small": 2000, "large": 8000}
    mesh = make_mesh(**{name: profile(10, num_cells=n) for name, n in cells.items()})
    for number, (prompt, expected) in enumerate(((100, 2000), (1500, 8000)), 1):
        asked = make_submit(number, max_tokens=9000, prompt_token_ids=(5,) * prompt, fits=True)
        sends = mesh.hear(CLIENT, asked)
        (request,) = [m for s in sends if isinstance(m := s.message, OpenStreamRequest)]
        longest = min(expected - MAX_GAMMA, make_profile().context_length)
        assert request.max_tokens == longest - prompt


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
