"""Frames of `airdraft top`, drawn of a status that is made here."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.cli.cells import width_of
from airdraft.nodes.cli.top_view import frame
from airdraft.nodes.telemetry.status import Status
from tests.nodes.status_examples import DRAFT_NODE, GUESSING, PLAIN, STATUS

TARGET = STATUS.targets[0]


def text(status: Status, width: int = 160, height: int = 100) -> str:
    return "\n".join(frame(status, width, height))


def test_a_small_terminal_shows_all_kinds_of_things() -> None:
    lines = frame(STATUS, 80, 24)
    assert len(lines) <= 24
    found = "\n".join(lines)
    for part in (
        *("55.5 tokens/s, 2 streams, 4 waiting; nodes: 1 ok, 1 silent", "silent 2 s emulated"),
        *("1 with 4 guesses, bound by round of batch 1", "pass 4%, plan 4%"),
        *("64% accepted, 20% corrected, 7% bonus, 9% plain", "40 taken", "4 no draft", "3 more"),
    ):
        assert part in found
    # A wide one has more columns.
    assert "120.0kB/80.0kB" not in found
    assert "120.0kB/80.0kB" in text(STATUS)


@given(st.integers(1, 200), st.integers(1, 60), st.integers(0, 40), st.integers(0, 20))
def test_no_frame_is_larger_than_its_terminal(
    width: int, height: int, num_streams: int, num_nodes: int
) -> None:
    status = replace(STATUS, streams=(GUESSING,) * num_streams, nodes=(DRAFT_NODE,) * num_nodes)
    lines = frame(status, width, height)
    assert 1 <= len(lines) <= height
    assert all(width_of(line) <= width for line in lines)


def test_in_a_crowd_everything_keeps_some_lines() -> None:
    streams, nodes = (GUESSING, PLAIN) * 100, (DRAFT_NODE,) * 30
    status = replace(STATUS, streams=streams, num_streams=len(streams), nodes=nodes)
    found = frame(status, 80, 24)
    assert len(found) == 24
    for title in ("NODE ", "PLAN ", "STREAM "):
        assert any(line.startswith(title) for line in found), title
    assert sum("more" in line for line in found) == 2


@pytest.mark.parametrize("name", ["\x1b]0;title\x07", "a\nb", "\u202ename"])
def test_names_that_peers_chose_are_not_obeyed(name: str) -> None:
    node, stream = replace(DRAFT_NODE, name=name), replace(PLAIN, draft=name, reason=name)
    target = replace(TARGET, name=name)
    status = replace(STATUS, cluster=name, nodes=(node,), streams=(stream,), targets=(target,))
    assert all(line.isprintable() for line in frame(status, 200, 60))


@pytest.mark.parametrize("width", [60, 80, 120, 400])
def test_the_reason_for_no_guesses_is_shown_whole(width: int) -> None:
    reason = " ".join(f"word{number}" for number in range(30))
    lines = frame(replace(STATUS, streams=(replace(PLAIN, reason=reason),)), width, 60)
    assert reason in " ".join(" ".join(lines).split())
