"""The edge cell in its short form: keys, air, replayed models, and texts as they were recorded."""

from __future__ import annotations

from bench.harness.streams import first_length
from bench.live.edge import run_setting
from bench.live.edge_cell import HEAD, Figures, Setting, Turns, faults_of, row_of, summary

WIDE, NARROW = Setting(rate_bps=1e6, alpha=0.8), Setting(rate_bps=1e5, alpha=0.6)


def figures(tokens_per_s: float, token_s: float = 0.1, **changes: int) -> Figures:
    made = Figures(tokens_per_s=tokens_per_s, promised=1.1, token_s=token_s, num_texts=10)
    made.num_rounds, made.num_plain_steps = 5, 5
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_the_summary_sees_the_worst_setting() -> None:
    turns = {"plain": [figures(50.0)], "auto": [figures(80.0, 0.08)]}
    text = summary({WIDE: turns, NARROW: {**turns, "auto": [figures(75.0, 0.1)]}})
    assert "auto to the best other policy, tokens/s: least 1.500, median 1.550" in text
    assert "by the mean stream's seconds a token: least 1.000, median 1.125" in text


def test_a_wrong_text_and_a_run_in_which_nobody_guessed_are_faults() -> None:
    def found(plain: Figures, auto: Figures) -> list[str]:
        return faults_of({WIDE: {"plain": [plain], "auto": [auto]}})

    assert not found(figures(50.0, num_rounds=0), figures(80.0))
    assert found(figures(50.0, num_wrong=1), figures(80.0)) == ["1 texts differ from the recording"]
    assert found(figures(50.0), figures(50.0, num_rounds=0)) == ["auto took no guesses"]


def test_turns_are_compared_one_by_one() -> None:
    """Where the machine is slower for a while, it is so for all modes."""
    auto = [figures(80.0), figures(66.0, num_wrong=1)]
    turns: Turns = {"plain": [figures(50.0), figures(40.0)], "auto": auto}
    assert "1000 kbit/s, alpha 0.8: auto to plain 1.625 (1.600 to 1.650)" in summary({WIDE: turns})
    shown = row_of(WIDE, "auto", turns)
    assert "| auto | 73.0 | 100.00 | 1.625 (1.600 to 1.650) | 1.10 |" in shown
    assert shown.endswith("| 1 of 20 |")
    assert {line.count("|") for line in (shown, *HEAD.splitlines())} == {14}


def test_no_price_is_shown_where_none_was_predicted() -> None:
    plain = Figures(tokens_per_s=50.0, token_s=0.02, num_plain_steps=10)
    shown = row_of(WIDE, "plain", {"plain": [plain]})
    assert "| plain | 50.0 | 20.00 | 1.000 (1.000 to 1.000) | - |" in shown


def test_streams_that_begin_together_end_apart() -> None:
    """Otherwise their texts come in waves, and a measured while has one more or one less."""
    ends = [first_length(192, stream, 16) for stream in range(16)]
    assert ends == list(range(12, 193, 12))
    # Fewer tokens than streams: at least one of each.
    assert [first_length(3, stream, 4) for stream in range(4)] == [1, 1, 2, 3]


async def test_the_cell_serves_what_was_recorded() -> None:
    setting = Setting(rate_bps=20e6, alpha=0.9, num_streams=4, warm_up_s=0.5, seconds=9.0)
    (made,) = (await run_setting(setting, ["auto"], "auto"))["auto"]
    assert made.num_wrong == 0
    assert made.num_texts >= 4
    assert made.tokens_per_s > 0
    assert made.num_accepted > 0
    assert made.wire_bytes > 0
    assert {"pass", "plan"} <= set(made.errors)
