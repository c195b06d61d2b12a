"""Runs in turns, and ratios of their pairs."""

import pytest

from bench.pairs import in_turns, paired_ratio


async def test_sides_take_turns_in_changing_order_after_what_comes_first() -> None:
    said: list[str] = []

    async def first(turn: int) -> None:
        said.append(f"before {turn}")

    def side(name: str):  # type: ignore[no-untyped-def]
        async def run(turn: int) -> str:
            said.append(name)
            return f"{name}{turn}"

        return run

    found = await in_turns(3, side("a"), side("b"), before=first)
    assert found == [("a0", "b0"), ("a1", "b1"), ("a2", "b2")]
    assert said == ["before 0", "a", "b", "before 1", "b", "a", "before 2", "a", "b"]


def test_a_ratio_is_that_of_pairs_with_an_interval_around_it() -> None:
    # Ten times faster in the second half, which pairs do not see.
    pairs = [(k * 10.0 ** (k > 4), 1.1 * k * 10.0 ** (k > 4)) for k in range(1, 10)]
    ratio = paired_ratio(pairs)
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((1.1, 1.1, 1.1))
    noisy = paired_ratio([(1.0, r) for r in (0.8, 0.9, 0.95, 1.0, 1.0, 1.05, 1.1, 1.2, 1.4)])
    assert noisy.median == 1.0
    assert 0.8 <= noisy.low < 1.0 < noisy.high <= 1.4
    assert str(noisy).startswith("1.000 (0.9")
