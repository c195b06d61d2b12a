from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.cli.cells import Column, cut, filled, fitted, shown, table, width_of


@given(text=st.text(max_size=30), width=st.integers(0, 40))
def test_no_text_is_wider_than_it_may_be_or_obeyed_by_a_terminal(text: str, width: int) -> None:
    text = shown(text)
    assert text.isprintable()
    assert width_of(cut(text, width)) <= width
    assert width_of(filled(text, width)) == width
    assert cut(text, width_of(text)) == text


def test_escapes_line_ends_and_turned_text_are_question_marks() -> None:
    assert shown("a\x1b[2J\n\u202eb") == "a?[2J??b"


def test_wide_characters_take_two_cells() -> None:
    assert width_of("漢a") == 3
    assert cut("漢漢漢", 4) == "漢~"
    assert filled("漢", 4, right=True) == "  漢"


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    columns = Column("A", 4), Column("NUMBER", 9, right=True)
    assert table(columns, [("x", "7"), ("too long", "12345")], 80) == [
        "A     NUMBER",
        "x          7",
        "too~   12345",
    ]
    assert table(columns, [], 80) == ["A  NUMBER"]


@pytest.mark.parametrize(
    ("width", "titles"), [(20, ["ONE", "TWO", "THREE"]), (14, ["ONE", "THREE"]), (3, ["THREE"])]
)
def test_columns_that_can_be_spared_go_where_there_is_no_room(
    width: int, titles: list[str]
) -> None:
    columns = Column("ONE", spare=1), Column("TWO", spare=2), Column("THREE")
    assert table(columns, [("1", "2", "3")], width)[0].split() == titles


def test_what_does_not_fit_is_counted() -> None:
    lines = ["1", "2", "3"]
    assert fitted(lines, 3) == lines
    assert fitted(lines, 2) == ["1", "... 2 more"]
    assert fitted(lines, 1) == ["... 3 more"]
    assert fitted(lines, 0) == []
