"""The edge cell in its short form: keys, air, replayed models, and texts as they were recorded."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from bench.live.edge import run_setting
from bench.live.edge_hub import Figures
from bench.live.edge_report import HEAD, row_of, to_best, together, verdict
from bench.live.edge_setting import Setting, first_length


def figures(tokens_per_s: float, token_s: float = 0.1, **changes: int) -> Figures:
    made = Figures(tokens_per_s=tokens_per_s, promised=1.1, token_s=token_s, num_texts=10)
    made.num_rounds, made.num_plain_steps = 5, 5
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def said(**by_policy: Figures) -> tuple[str, bool]:
    found: Mapping[Setting, Mapping[str, Figures]] = {
        Setting(rate_bps=1e6, alpha=0.8): by_policy,
        Setting(rate_bps=1e5, alpha=0.6): by_policy,
    }
    return verdict(found)


def test_the_verdict_sees_the_worst_setting_and_any_wrong_text() -> None:
    text, is_good = said(plain=figures(50.0), auto=figures(80.0, 0.08))
    assert is_good
    assert "auto to the best other policy, tokens/s: least 1.600, median 1.600" in text
    assert "by the mean stream's seconds a token: least 1.250, median 1.250" in text
    assert "auto to plain at alpha 0.7 and above: least 1.600" in text
    assert "price seen to predicted: least 1.100" in text
    assert "0 of 40" in text
    assert not said(plain=figures(50.0, num_wrong=1), auto=figures(80.0))[1]
    # A suite in which nobody ever guessed has shown nothing.
    assert not said(plain=figures(50.0), auto=figures(50.0, num_rounds=0))[1]


def test_turns_are_compared_one_by_one() -> None:
    """Where the machine is slower for a while, it is so for all modes."""
    plain = together([figures(50.0), figures(40.0)])
    auto = together([figures(80.0), figures(66.0, num_wrong=1)])
    beside = to_best({"plain": plain, "auto": auto})
    assert beside is not None
    assert beside == ("plain", pytest.approx(1.625), pytest.approx(0.025))
    assert (auto.tokens_per_s, auto.num_texts, auto.num_wrong) == (73.0, 20, 1)
    found = {Setting(rate_bps=1e6, alpha=0.8): {"plain": plain, "auto": auto}}
    text, is_good = verdict(found)
    assert "1000 kbit/s, alpha 0.8: auto to plain 1.625 ± 0.025" in text
    assert not is_good
    (setting,) = found
    assert "| auto | 73.0 ± 7.0 |" in row_of(setting, "auto", found[setting])


def test_a_row_has_all_columns_and_no_price_where_none_was_predicted() -> None:
    setting = Setting(rate_bps=1e6, alpha=0.8)
    plain = Figures(tokens_per_s=50.0, token_s=0.02, num_plain_steps=10)
    shown = row_of(setting, "plain", {"plain": plain})
    assert {line.count("|") for line in (shown, *HEAD.splitlines())} == {14}
    assert "| plain | 50.0 | 20.00 | 1.000 | - |" in shown


def test_streams_that_begin_together_end_apart() -> None:
    """Otherwise their texts come in waves, and a measured while has one more or one less."""
    ends = [first_length(192, stream, 16) for stream in range(16)]
    assert ends == list(range(12, 193, 12))
    # Fewer tokens than streams: at least one of each.
    assert [first_length(3, stream, 4) for stream in range(4)] == [1, 1, 2, 3]


async def test_the_cell_serves_what_was_recorded() -> None:
    lines: list[str] = []
    setting = Setting(rate_bps=20e6, alpha=0.9, num_streams=4, warm_up_s=0.5, seconds=9.0)
    found = await run_setting(setting, ["auto"], "auto", lines.append)
    made = found["auto"]
    assert made.num_wrong == 0
    assert made.num_texts >= 4
    assert made.tokens_per_s > 0
    assert made.num_accepted > 0
    assert made.wire_bytes > 0
    assert min(made.errors[stage][2] for stage in ("pass", "plan")) > 0
    assert "TUN devices" in lines[0] or "prox" in lines[0].lower()
