from __future__ import annotations

from random import Random

import pytest

from bench.harness.cases import sampling_of, stopped_at, toy_cases
from nodes.engine.toy import ToyConfig, ToyTokenizer
from tests.nodes.reference import reference


def test_the_undisturbed_text_is_that_of_the_tests() -> None:
    """Two loops that were written apart agree."""
    kinds = set()
    for case in toy_cases(Random(3), 30, mean_tokens=30.0):
        prompt = case.prompt
        ids = ToyTokenizer(96).encode(prompt) if isinstance(prompt, str) else prompt
        for choice, expected in enumerate(case.expected):
            alone = reference(
                ToyConfig(),
                ids,
                sampling_of(case.options, choice),
                max_tokens=case.options.max_tokens,
                stops=case.options.stops,
            )
            assert expected.token_ids == alone.token_ids
            assert (expected.text, expected.finish_reason) == (alone.text, alone.finish_reason)
        kinds |= {type(prompt), case.options.num_choices, case.expected[0].finish_reason}
    assert kinds >= {str, tuple, 1, 2, "stop", "length"}


def test_one_seed_gives_the_same_cases() -> None:
    assert toy_cases(Random(4), 5) == toy_cases(Random(4), 5)
    assert toy_cases(Random(4), 5) != toy_cases(Random(5), 5)


@pytest.mark.parametrize(
    ("text", "stops", "length"),
    [
        (b"1 2 3", (), None),
        (b"1 2 3", ("4",), None),
        (b"1 2 3", ("2",), 2),
        (b"1 2 3", ("3", "2"), 2),
        # Both are complete at once: the longer one began first.
        (b"1 2 3", ("2", "1 2"), 0),
        (b"abcd", ("bcd", "c"), 2),
    ],
)
def test_the_first_complete_stop_string_ends_a_text(
    text: bytes, stops: tuple[str, ...], length: int | None
) -> None:
    assert stopped_at(text, stops) == length
