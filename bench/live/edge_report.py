"""The report of the edge cell: a row for each policy, and a summary of all settings. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median

from bench.harness.report import head, row
from bench.live.edge_hub import Figures
from bench.live.edge_setting import Setting
from bench.pairs import paired_ratio

# Figures of each turn, by policy.
Turns = Mapping[str, Sequence[Figures]]
HEAD = head(
    *("cell kbit/s", "alpha", "policy", "tokens/s", "ms a token", "to plain (95 %)"),
    *("price seen / predicted", "accepted", "passes with guesses", "bytes a token"),
    *("plan error", "pass error", "wrong texts"),
)


def row_of(setting: Setting, policy: str, found: Turns) -> str:
    """Return a policy's row. In a simulation no messages, passes and texts are measured."""
    figures, turns = together(found[policy]), found[policy]
    tokens = figures.num_rounds + figures.num_plain_steps + figures.num_accepted
    plain = [turn.tokens_per_s for turn in found.get("plain", ())]
    pairs = list(zip(plain, (turn.tokens_per_s for turn in turns), strict=False))
    errors = [figures.errors.get(stage) for stage in ("plan", "pass")]
    return row(
        *(f"{setting.rate_bps / 1e3:g}", setting.alpha, policy, f"{figures.tokens_per_s:.1f}"),
        f"{figures.token_s * 1e3:.2f}",
        paired_ratio(pairs) if pairs else "-",
        # Without guesses no price is predicted.
        f"{figures.promised:.2f}" if figures.promised else "-",
        f"{figures.acceptance:.2f}",
        f"{figures.guessing_share:.2f}",
        f"{figures.wire_bytes / max(1, tokens):.1f}",
        *("-" if error is None else f"{error[0]:.2f}, p95 {error[1]:.2f}" for error in errors),
        f"{figures.num_wrong} of {figures.num_texts}" if figures.num_texts else "-",
    )


def together(turns: Sequence[Figures]) -> Figures:
    """Join the figures of turns: sums of counts, means of rates, medians of errors."""
    made = Figures()
    for name in made.COUNTS:
        setattr(made, name, sum(getattr(turn, name) for turn in turns))
    for name in made.RATES:
        setattr(made, name, fmean(getattr(turn, name) for turn in turns))
    for stage in sorted({stage for turn in turns for stage in turn.errors}):
        seen = [turn.errors[stage] for turn in turns if stage in turn.errors]
        made.errors[stage] = median(middle for middle, _ in seen), median(p95 for _, p95 in seen)
    return made


def summary(found: Mapping[Setting, Turns]) -> str:
    """Compare auto with the best other policy, by setting and over all of them."""
    lines, to_others, to_quickest = [], [], []
    for setting, turns in found.items():
        others = {name: together(turns[name]) for name in turns if name != "auto"}
        if others and "auto" in turns:
            best = max(others, key=lambda name: others[name].tokens_per_s)
            both = zip(turns[best], turns["auto"], strict=True)
            ratio = paired_ratio([(a.tokens_per_s, b.tokens_per_s) for a, b in both])
            lines.append(f"{setting.place}: auto to {best} {ratio}")
            to_others.append(ratio.median)
            quickest_s = min(figures.token_s for figures in others.values())
            to_quickest.append(quickest_s / together(turns["auto"]).token_s)
    for name, values in (
        ("auto to the best other policy, tokens/s", to_others),
        ("the same by the mean stream's seconds a token", to_quickest),
    ):
        if values:
            lines.append(f"{name}: least {min(values):.3f}, median {median(values):.3f}")
    return "\n".join(lines)


def faults_of(found: Mapping[Setting, Turns]) -> list[str]:
    """Return what makes a run worthless: wrong texts, and auto without any guesses."""
    made = [(name, turn) for by in found.values() for name, turns in by.items() for turn in turns]
    num_wrong = sum(turn.num_wrong for _, turn in made)
    faults = [f"{num_wrong} texts differ from the recording"] if num_wrong else []
    guessing = [turn.guessing_share for name, turn in made if name == "auto"]
    if guessing and not max(guessing):
        faults.append("auto took no guesses")
    return faults
