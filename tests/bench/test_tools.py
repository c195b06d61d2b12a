"""`python -m bench tools`: its cases, its judgement, and a short run of it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from bench.tools.asking import calls, questions
from bench.tools.functions import FUNCTIONS, fault_of, tools


def test_there_are_a_hundred_cases_of_all_functions() -> None:
    counts = Counter(case.wanted for case in questions())
    assert counts == {**dict.fromkeys(FUNCTIONS, 9), "none": 10}
    asked = calls(200)
    assert len({case.options["seed"] for case in asked}) == 200
    assert "none" not in {case.wanted for case in asked}
    assert {tool["function"]["name"] for tool in tools()} == set(FUNCTIONS)


@pytest.mark.parametrize(
    ("name", "arguments", "fault"),
    [
        ("weather", '{"city": "Oslo", "days": 3}', ""),
        ("weather", '{"city": "Oslo", "days": 3, "unit": null}', ""),
        ("weather", '{"city": "Oslo", "days": 8}', "days"),
        ("weather", '{"city": "Oslo"}', "days"),
        ("weather", '{"city": "Oslo", "days": 3, "wind": 1}', "wind"),
        ("weather", '{"city": "Oslo", "da', "weather("),
        ("book_table", '{"restaurant": "x", "guests": 2, "at": {"hour": 24, "minute": 0}}', "hour"),
        ("search_files", '{"query": "x", "kinds": []}', "kinds"),
        ("set_light", '{"room": "attic", "brightness": 1}', "room"),
        ("sing", "{}", "no function is called 'sing'"),
    ],
)
def test_what_is_wrong_with_a_call_is_told(name: str, arguments: str, fault: str) -> None:
    found = fault_of(name, arguments)
    assert bool(found) == bool(fault)
    assert "\n" not in found
    if fault:
        assert fault in found or name in found


@pytest.mark.model
@pytest.mark.timeout(300)
def test_calls_of_the_default_pair_are_valid() -> None:
    command = [sys.executable, "-m", "bench", "tools", "--model", "smollm2-135m", "--calls", "4"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "plain: 4 of 4 calls valid" in done.stdout
    assert "4 of 4 the same with a draft and without" in done.stdout
