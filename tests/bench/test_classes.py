"""The verdict of the bench of classes; the bench itself runs real processes."""

from __future__ import annotations

from bench.classes import Found, make_cases

KINDS = [("by name", "m.gguf", ""), ("pinned", "", "fp_a_b")]


def right() -> Found:
    """Every case answered alike, and what was to be told with the first class down."""
    found = Found(wanted={"by name": "fp_a_b", "pinned": "fp_a_b", "fast": "fp_a_c"})
    for case in make_cases(6, 8, KINDS):
        found.answers[case] = [("text", "fp_a_b")] * 3
    found.told_while_down = ["fp_a_c"]
    found.refusals = ["Error code: 503 - no target with fingerprint fp_a_b is present"]
    return found


def test_cases_are_of_all_kinds_and_the_same_each_time() -> None:
    cases = make_cases(6, 8, KINDS)
    assert cases == make_cases(6, 8, KINDS)
    assert [(case.model, case.pinned) for case in cases] == [("m.gguf", ""), ("", "fp_a_b")] * 3
    assert len({case.seed for case in cases}) == 6
    assert all(4 <= case.max_tokens <= 8 for case in cases)


def test_what_differs_is_counted() -> None:
    assert right().num_wrong == 0
    assert "| pinned | 3 | 9 | fp_a_b | 0 | 0 |" in right().table()
    other_text, other_class, down, answered = right(), right(), right(), right()
    other_text.answers[make_cases(6, 8, KINDS)[1]][2] = ("other", "fp_a_b")
    assert other_text.num_wrong == 1
    assert "| pinned | 3 | 9 | fp_a_b | 1 | 0 |" in other_text.table()
    other_class.answers[make_cases(6, 8, KINDS)[0]] = [("text", "fp_a_c")] * 3
    assert other_class.num_wrong == 1
    assert "| by name | 3 | 9 | fp_a_b | 0 | 1 |" in other_class.table()
    down.told_while_down.append("fp_a_b")
    answered.refusals.append("answered by fp_a_c")
    assert (down.num_wrong, answered.num_wrong) == (1, 1)
