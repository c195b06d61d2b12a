import json
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

import pytest

from airdraft.nodes.telemetry.trace.records import KINDS, from_line, to_line
from tests.nodes.telemetry.trace.examples import FLOW, OTHERS, guessing, plan_record

# The prices of the last one were computed by numpy.
ALL = (*FLOW, *OTHERS, plan_record(guessing(3)))


def test_there_is_an_example_of_each_kind() -> None:
    assert {type(record) for record in ALL} == set(KINDS.values())


@pytest.mark.parametrize("record", ALL, ids=lambda record: type(record).__name__)
def test_lines_come_back_equal(record: Any) -> None:
    line = to_line(5, record)
    assert line.endswith(b"}\n")
    found = json.loads(line)
    assert (found["number"], KINDS[found["kind"]]) == (5, type(record))
    assert from_line(line) == record


def test_no_field_could_hold_a_token_or_a_text() -> None:
    """Texts are names of nodes, targets, policies, links and bounds, and reasons of draft nodes; no
    list of numbers is one of token ids."""
    texts, numbers = set(), set()

    def look(cls: Any) -> None:
        hints = get_type_hints(cls)
        for field in fields(cls):
            hint = hints[field.name]
            for part in (hint, *get_args(hint)):
                assert part is not bytes
                if is_dataclass(part):
                    look(part)
            if str in (hint, *get_args(hint)):
                texts.add(field.name)
            if hint == tuple[int, ...]:
                numbers.add(field.name)

    for cls in KINDS.values():
        look(cls)
    names = {"target", "policy", "bound", "node", "reason", "name", "draft", "medium", "plain"}
    assert texts == names
    assert numbers == {"stream_ids", "gammas", "plain", "sizes"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "not a line of JSON"),
        ("[" * 100_000, "not a line of JSON"),
        ("[]", "not an object"),
        ("{}", "kind is not one of plan, follow,"),
        ('{"kind": "plans"}', "kind is not one of plan, follow,"),
        ('{"kind": ["plan"]}', "kind is not one of plan, follow,"),
        ('{"kind": "guesses", "at_s": "x"}', "at_s is not a number"),
        ('{"kind": "guesses", "at_s": 1}', "target is missing"),
    ],
)
def test_lines_that_are_no_records_are_refused(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_line(line)
