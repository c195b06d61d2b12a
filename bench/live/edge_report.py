"""The report of the edge suite: a row for each policy, and a summary of all settings. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from statistics import median

from bench.harness.report import head, row
from bench.live.edge_hub import Figures
from bench.live.edge_setting import Setting
from bench.live.turns import rate_of, to_best

_COLUMNS = (
    *("cell kbit/s", "alpha", "policy", "tokens/s", "ms a token", "to plain"),
    *("price seen / predicted", "accepted"),
)
HEAD = head(
    *(*_COLUMNS, "passes with guesses", "bytes a token"),
    *("plan error", "pass error", "wrong texts"),
)
SIMULATED_HEAD = head(*_COLUMNS)


def row_of(setting: Setting, policy: str, found: Mapping[str, Figures]) -> str:
    figures = found[policy]
    tokens = figures.num_rounds + figures.num_plain_steps + figures.num_accepted
    errors = (figures.errors.get(stage, (0.0, 0.0, 0)) for stage in ("plan", "pass"))
    return row(
        *_cells(setting, policy, found),
        f"{figures.guessing_share:.2f}",
        f"{figures.wire_bytes / max(1, tokens):.1f}",
        *(f"{middle:.2f}, p95 {p95:.2f}" for middle, p95, _ in errors),
        f"{figures.num_wrong} of {figures.num_texts}",
    )


def simulated_row_of(setting: Setting, policy: str, found: Mapping[str, Figures]) -> str:
    """Return the row of a simulated cell, whose messages and passes are not measured."""
    return row(*_cells(setting, policy, found))


def _cells(setting: Setting, policy: str, found: Mapping[str, Figures]) -> list[object]:
    figures = found[policy]
    plain = found["plain"].tokens_per_s if "plain" in found else float("nan")
    return [
        f"{setting.rate_bps / 1e3:g}",
        setting.alpha,
        policy,
        rate_of(figures),
        f"{figures.token_s * 1e3:.2f}",
        f"{figures.tokens_per_s / plain:.3f}",
        # Without guesses no price is predicted.
        f"{figures.promised:.2f}" if figures.promised else "-",
        f"{figures.acceptance:.2f}",
    ]


def standing(found: Mapping[Setting, Mapping[str, Figures]]) -> list[str]:
    """Return lines that compare auto with the best other policy, by setting and over all."""
    lines = []
    to_others, to_quickest, to_plain, achieved = [], [], [], []
    for setting, by_policy in found.items():
        auto = by_policy.get("auto")
        if auto is None:
            continue
        if (beside := to_best(by_policy)) is not None:
            best, ratio, error = beside
            to_others.append(ratio)
            noise = "" if isnan(error) else f" ± {error:.3f}"
            lines.append(f"{setting.place}: auto to {best} {ratio:.3f}{noise}")
            others = [f for name, f in by_policy.items() if name != "auto"]
            to_quickest.append(min(f.token_s for f in others) / auto.token_s)
        achieved.append(auto.promised)
        if "plain" in by_policy and setting.alpha >= 0.7:
            to_plain.append(auto.tokens_per_s / by_policy["plain"].tokens_per_s)
    for name, values in (
        ("auto to the best other policy, tokens/s", to_others),
        ("the same by the mean stream's seconds a token", to_quickest),
        ("auto to plain at alpha 0.7 and above", to_plain),
        ("price seen to predicted", achieved),
    ):
        if values:
            lines.append(f"{name}: least {min(values):.3f}, median {median(values):.3f}")
    return lines


def verdict(found: Mapping[Setting, Mapping[str, Figures]]) -> tuple[str, bool]:
    """Return the summary, and whether the run is valid: some guesses and no wrong text."""
    all_made = [figures for by_policy in found.values() for figures in by_policy.values()]
    num_wrong = sum(figures.num_wrong for figures in all_made)
    num_texts = sum(figures.num_texts for figures in all_made)
    auto = [by_policy["auto"] for by_policy in found.values() if "auto" in by_policy]
    guesses = max((figures.guessing_share for figures in auto), default=0.0)
    lines = [
        *standing(found),
        f"texts that differ from the recording: {num_wrong} of {num_texts}",
        f"largest share of passes with guesses under auto: {guesses:.2f}",
    ]
    return "\n".join(lines), num_wrong == 0 and (guesses > 0 or not auto)
