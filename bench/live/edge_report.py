"""The report of the edge suite: a row for each policy, and a summary of all settings. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from statistics import median

from bench.harness.report import head, row
from bench.live.edge_hub import Figures
from bench.live.edge_setting import Setting
from bench.live.turns import rate_of, to_best

HEAD = head(
    *("cell kbit/s", "alpha", "policy", "tokens/s", "ms a token", "to plain"),
    *("price seen / predicted", "passes with guesses", "accepted", "bytes a token"),
    *("plan error", "pass error", "wrong texts"),
)


def row_of(setting: Setting, policy: str, found: dict[str, Figures]) -> str:
    figures = found[policy]
    to_plain = (
        figures.tokens_per_s / found["plain"].tokens_per_s if "plain" in found else float("nan")
    )
    errors = figures.errors or {}
    plan, each = errors.get("plan", (0.0, 0.0, 0)), errors.get("pass", (0.0, 0.0, 0))
    tokens = figures.num_rounds + figures.num_plain_steps + figures.num_accepted
    return row(
        f"{setting.rate_bps / 1e3:g}",
        setting.alpha,
        policy,
        rate_of(figures),
        f"{figures.token_s * 1e3:.1f}",
        f"{to_plain:.2f}",
        price_ratio(figures),
        f"{figures.guessing_share:.2f}",
        f"{figures.acceptance:.2f}",
        f"{figures.wire_bytes / max(1, tokens):.1f}",
        f"{plan[0]:.2f}, p95 {plan[1]:.2f}",
        f"{each[0]:.2f}, p95 {each[1]:.2f}",
        f"{figures.num_wrong} of {figures.num_texts}",
    )


def price_ratio(figures: Figures) -> str:
    """Return the observed price over the predicted one, or "-" if none was predicted."""
    return f"{figures.promised:.2f}" if figures.promised else "-"


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
