"""Frames of `airdraft top`, drawn of a status that is made here."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.cli.cells import width_of
from nodes.cli.top_view import frame
from nodes.status import SpanStatus, Status
from nodes.status_history import Point
from tests.nodes.status_examples import DRAFT_NODE, GUESSING, PLAIN, STATUS

TARGET = STATUS.targets[0]


def text(status: Status, width: int = 160, height: int = 100) -> str:
    return "\n".join(frame(status, width, height))


def with_spans(*spans: SpanStatus) -> Status:
    return replace(STATUS, targets=(replace(TARGET, spans=spans),))


def test_a_small_terminal_shows_all_kinds_of_things() -> None:
    lines = frame(STATUS, 80, 24)
    assert len(lines) <= 24
    assert lines[0] == (
        "airdraft up 0:01:01: 55.5 tokens/s, 2 streams, 4 waiting; nodes: 1 ok, 1 silent"
    )
    found = "\n".join(lines)
    for part in (
        "silent 2 s emulated",
        "PLAN of big: 1 plain; in batches: 1 with gamma 4",
        "promised 61.0 tokens/s, cycle 50.0 ms, bound by lap of batch 1",
        "observed 55.5 tokens/s, cycle 53.0 ms; off by draft 4%",
        "accepted by position: 1 83%, 2 80%, 3 75%, 4 80%",
        "44 tokens: 64% accepted, 20% corrected, 7% bonus, 9% plain",
        "no draft node holds the str~",
        "... 3 more",
    ):
        assert part in found


def test_a_wide_one_shows_more_columns() -> None:
    assert "IN/OUT" not in text(STATUS, 80)
    assert "120.0kB/80.0kB" in text(STATUS)
    assert "200k d" in text(STATUS)


@given(
    width=st.integers(1, 200),
    height=st.integers(1, 60),
    num_streams=st.integers(0, 40),
    num_nodes=st.integers(0, 20),
)
def test_no_frame_is_larger_than_its_terminal(
    width: int, height: int, num_streams: int, num_nodes: int
) -> None:
    status = replace(STATUS, streams=(GUESSING,) * num_streams, nodes=(DRAFT_NODE,) * num_nodes)
    lines = frame(status, width, height)
    assert 1 <= len(lines) <= height
    assert all(width_of(line) <= width for line in lines)


def test_in_a_crowd_everything_keeps_some_lines() -> None:
    status = replace(
        STATUS, streams=(GUESSING, PLAIN) * 100, num_streams=200, nodes=(DRAFT_NODE,) * 30
    )
    found = frame(status, 80, 24)
    assert len(found) == 24
    for title in ("NODE ", "PLAN ", "STREAM "):
        assert any(line.startswith(title) for line in found), title
    assert sum("more" in line for line in found) == 2


def test_the_last_minutes_are_a_line_of_marks() -> None:
    points = [Point(float(k), speed, None) for k, speed in enumerate((0.0, 45.0, 90.0))]
    assert frame(STATUS, 80, 24, points)[1] == "up to 90.0 tokens/s  =@"
    assert frame(STATUS, 22, 24, points)[1] == "up to 90.0 tokens/s =@"
    assert frame(STATUS, 80, 24, points[:1])[1].startswith("NODE")


def test_an_empty_mesh_is_a_title_and_two_empty_tables() -> None:
    empty = replace(STATUS, nodes=(), streams=(), targets=(), num_streams=3)
    lines = frame(empty, 80, 24)
    assert lines[0].endswith("nodes: none")
    assert len(lines) == 4


def test_a_target_that_has_left_has_no_plan_to_show() -> None:
    left = replace(STATUS, targets=(replace(TARGET, plan=None, observed=None),))
    assert "PLAN of" not in text(left)


def test_spans_are_drawn_where_they_were() -> None:
    # Ten laps of 0.9 / 11 s are shown, up to now.
    end = STATUS.at_s
    shown_s = 10 * 0.9 / 11
    first = SpanStatus("pass", "big", 0, 1, end - shown_s, end - shown_s / 2, 3)
    second = SpanStatus("pass", "big", 2, 1, end - shown_s / 2, end, 3)
    lines = frame(with_spans(first, second), 116, 50)
    (track,) = [line for line in lines if line.startswith("  big ")]
    assert track == "  big          " + "=" * 50 + "2" * 50
    gone = SpanStatus("pass", "big", 2, 1, end - 9.0, end - 8.0, 3)
    assert "by batch" not in text(with_spans(gone))


@pytest.mark.parametrize("name", ["\x1b]0;title\x07", "a\nb", "\u202ename"])
def test_names_that_peers_chose_are_not_obeyed(name: str) -> None:
    node, stream = replace(DRAFT_NODE, name=name), replace(PLAIN, draft=name, reason=name)
    span = replace(TARGET.spans[0], node=name)
    target = replace(TARGET, name=name, spans=(span,))
    status = replace(STATUS, cluster=name, nodes=(node,), streams=(stream,), targets=(target,))
    assert all(line.isprintable() for line in frame(status, 200, 60))
