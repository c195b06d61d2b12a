"""Speed after the loss of all draft nodes: what is counted, and one loss of each kind."""

from __future__ import annotations

from bench.chaos.links.clients import Heard
from bench.chaos.links.draftless import HEAD, DraftlessFigures, Loss, loss_of, run_draftless


def test_speed_counts_from_a_gap_after_the_loss_and_beside_what_is_plain_later() -> None:
    # Two streams: 4 tokens each half a second, then 1 each quarter of one, but for a while without.
    before = [(96.0 + 0.5 * step, 4) for step in range(1, 9)]
    after = [(101.5 + 0.25 * step, 1) for step in range(60)]
    gaps = [(at, 0.5, 9) for at, _ in before] + [(101.5, 1.5, 9), (101.75, 1.75, 9)]
    loss = loss_of(Heard(tokens_at=before + after, gaps_s=gaps), 100.0)
    assert loss.guessing == 8.0
    assert loss.gap_s == 0.5
    # 3 s of the 4 from 100.5 on have tokens.
    assert (loss.after, loss.plain) == (3.25, 4.0)
    assert loss.stall_s == (1.5, 1.75)


def test_each_fault_is_said() -> None:
    fine = Loss(guessing=150.0, after=98.0, plain=100.0, gap_s=0.1, stall_s=(0.2, 0.3, 0.4))
    figures = DraftlessFigures("kill", 101.0, [fine])
    assert figures.faults() == []
    row = figures.row()
    assert row.startswith("| kill | 1 | 101 | 150 | 98 | 100 | 0.980 (0.980 to 0.980) | 0.10 |")
    assert row.endswith("| 0.30 0.40 0.40 | 0 | 0 |")
    assert row.count("|") == HEAD.splitlines()[0].count("|")
    slow = Loss(guessing=105.0, after=90.0, plain=100.0, gap_s=0.1, stall_s=())
    heard = Heard(num_wrong=2, failures={"gone": 1})
    assert DraftlessFigures("cut", 101.0, [slow], heard).faults() == [
        "cut: after the loss 0.90 of the speed of plain decoding",
        "cut: with guesses only 1.05 of the speed of plain decoding, so the run shows nothing",
        "cut: 2 wrong texts",
        "cut: requests failed: {'gone': 1}",
    ]


async def test_streams_go_on_without_any_draft_node() -> None:
    lines: list[str] = []
    (figures,) = await run_draftless(["kill"], 1, 4, 1, "auto", lines.append)
    (loss,) = figures.losses
    # How fast that is says more of the machine. Only guesses bring several tokens at a time.
    assert min(loss.guessing, loss.after, loss.plain) > 0
    counts = [count for _, count in sorted(figures.heard.tokens_at)]
    last_guessed = max(place for place, count in enumerate(counts) if count > 1)
    assert len(counts) - last_guessed > 4
    assert figures.heard.num_wrong == 0
    assert figures.heard.failures == {}
    assert lines[0].startswith("*emulated* (T")
