"""The life of a request: every change of phase that is listed happens, and no other one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airdraft.nodes.coordinator.requests import book
from airdraft.nodes.coordinator.requests.request import TRANSITIONS, Over, Placed, check_transition
from airdraft.nodes.coordinator.requests.texts import MAX_AT_ONCE
from airdraft.nodes.messages import PromptScoresNotice, Score, TokenScores
from tests.nodes.builders import make_profile
from tests.nodes.coordinator.script import OTHER, TARGET, TEXT_PROMPT, Mesh, make_mesh

PAGE = Path(__file__).parents[3] / "docs" / "design" / "requests.md"
PAIRS = {(before, after) for before, allowed in TRANSITIONS.items() for after in allowed}
# More than a target is sent at once.
MANY = range(1, MAX_AT_ONCE + 2)


def texts() -> Mesh:
    mesh = make_mesh()
    for number in MANY:
        mesh.submit(number, **TEXT_PROMPT)
    return mesh


def without_target() -> Mesh:
    mesh = make_mesh()
    mesh.bye(TARGET)
    return mesh


def ids_and_texts_are_read() -> None:
    mesh = texts()
    mesh.cancel(MANY[-1])
    mesh.cancel(2)
    mesh.tokenized(1, 4, 5)
    mesh.submit(50)
    mesh.submit(51, max_tokens=10**6)
    mesh.cancel(50)


def nobody_reads_at_first() -> None:
    mesh = without_target()
    mesh.submit(1)
    mesh.submit(2, **TEXT_PROMPT)
    mesh.submit(3)
    mesh.cancel(3)
    mesh.join(TARGET, "target", make_profile(), now=1.0)


def a_target_does_not_answer_texts() -> None:
    mesh = texts()
    mesh.join(OTHER, "target", make_profile())
    for second in range(1, 13):
        mesh.tick(float(second))


def a_target_leaves_with_texts_and_streams() -> None:
    mesh = texts()
    mesh.submit(50)
    mesh.bye(TARGET)
    mesh.cancel(50)


def a_late_answer_counts() -> None:
    """A text was sent, was not answered in time, and waits for its turn once more."""
    mesh = make_mesh()
    for number in MANY[:-1]:
        mesh.submit(number, **TEXT_PROMPT)
    for second in range(1, 13):
        mesh.tick(float(second))
        mesh.submit(50 + second, **TEXT_PROMPT, user=f"another {second}")
    for number in reversed(MANY):
        mesh.tokenized(number, 4, 5)


def scores_come_first() -> None:
    mesh = make_mesh()
    mesh.submit(1, num_choices=2, scores_prompt=True)
    mesh.cancel(1)
    mesh.submit(2, num_choices=2, scores_prompt=True)
    mesh.ready(3)
    scores = tuple(TokenScores(Score(0, -0.5, b"x"), ()) for _ in range(2))
    mesh.hear(TARGET, PromptScoresNotice(3, 1, 1, scores))


def a_stream_moves_and_ends() -> None:
    mesh = make_mesh()
    mesh.begin(1)
    mesh.join(OTHER, "target", make_profile())
    mesh.command("drain", "target")
    mesh.finish(1, 4, peer=OTHER, generation=2)


SCENES: list[Callable[[], Any]] = [
    ids_and_texts_are_read,
    nobody_reads_at_first,
    a_target_does_not_answer_texts,
    a_target_leaves_with_texts_and_streams,
    a_late_answer_counts,
    scores_come_first,
    a_stream_moves_and_ends,
]


def test_every_listed_change_of_phase_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    def noted(before: Any, after: Any) -> None:
        seen.add((None if before is None else type(before), type(after)))
        check_transition(before, after)

    monkeypatch.setattr(book, "check_transition", noted)
    for scene in SCENES:
        scene()
    missing = {(before and before.__name__, after.__name__) for before, after in PAIRS - seen}
    assert not missing


def test_other_changes_are_errors_of_ours() -> None:
    (target,) = make_mesh().state.roster.targets()
    with pytest.raises(AssertionError, match="cannot become"):
        check_transition(Over(), Placed(target, 0.0))


def test_the_page_lists_the_same_changes() -> None:
    """The page's table has a row for each phase, with the phases that follow it."""
    rows = re.findall(r"^\| `?(\w+)`? \| ([^|]*) \|", PAGE.read_text(), re.MULTILINE)
    listed = {
        (before, after)
        for before, cell in rows
        if before in {*(p.__name__ for p in TRANSITIONS if p), "nothing"}
        for after in re.findall(r"`(\w+)`", cell)
    }
    assert listed == {(before.__name__ if before else "nothing", a.__name__) for before, a in PAIRS}
