"""What the edge suite says: a row of each policy, and all settings in a few lines. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from statistics import median

from bench.live.edge_hub import Figures
from bench.live.edge_setting import Setting
from bench.live.turns import rate_of, to_best

HEAD = (
    "| cell kbit/s | alpha | policy | tokens/s | ms a token | to ad | achieved / planned "
    "| passes with guesses | accepted | bytes a token | lap error | steady laps | other laps "
    "| pass error | wrong texts |\n" + "|---" * 15 + "|"
)


def row(setting: Setting, policy: str, found: dict[str, Figures]) -> str:
    figures = found[policy]
    to_ad = figures.tokens_per_s / found["ad"].tokens_per_s if "ad" in found else float("nan")
    errors = figures.errors or {}
    lap, each = errors.get("lap", (0.0, 0.0, 0)), errors.get("pass", (0.0, 0.0, 0))
    steady, other = figures.steady_laps, figures.other_laps
    tokens = figures.num_rounds + figures.num_plain_steps + figures.num_accepted
    return (
        f"| {setting.rate_bps / 1e3:g} | {setting.alpha} | {policy} "
        f"| {rate_of(figures)} | {figures.token_s * 1e3:.1f} | {to_ad:.2f} "
        f"| {figures.tokens_per_s / figures.planned_tokens_per_s:.2f} "
        f"| {figures.guessing_share:.2f} | {figures.acceptance:.2f} "
        f"| {figures.wire_bytes / max(1, tokens):.1f} | {lap[0]:.2f}, p95 {lap[1]:.2f} "
        f"| {steady[0]:.2f}, p95 {steady[1]:.2f} of {steady[2]} "
        f"| {other[0]:.2f}, p95 {other[1]:.2f} of {other[2]} "
        f"| {each[0]:.2f}, p95 {each[1]:.2f} | {figures.num_wrong} of {figures.num_texts} |"
    )


def standing(found: Mapping[Setting, Mapping[str, Figures]]) -> list[str]:
    """Lines that say how joint stands: beside the best other policy of each setting, and in all."""
    lines = []
    to_others, to_quickest, to_ad, achieved = [], [], [], []
    for setting, by_policy in found.items():
        joint = by_policy.get("joint")
        if joint is None:
            continue
        if (beside := to_best(by_policy)) is not None:
            best, ratio, error = beside
            to_others.append(ratio)
            noise = "" if isnan(error) else f" ± {error:.3f}"
            lines.append(f"{setting.place}: joint to {best} {ratio:.3f}{noise}")
            others = [f for name, f in by_policy.items() if name != "joint"]
            to_quickest.append(min(f.token_s for f in others) / joint.token_s)
        achieved.append(joint.tokens_per_s / joint.planned_tokens_per_s)
        if "ad" in by_policy and setting.alpha >= 0.7:
            to_ad.append(joint.tokens_per_s / by_policy["ad"].tokens_per_s)
    for name, values in (
        ("joint to the best other policy, tokens/s", to_others),
        ("the same by the mean stream's seconds a token", to_quickest),
        ("joint to ad at alpha 0.7 and above", to_ad),
        ("achieved by joint to planned", achieved),
    ):
        if values:
            lines.append(f"{name}: least {min(values):.3f}, median {median(values):.3f}")
    return lines


def verdict(found: Mapping[Setting, Mapping[str, Figures]]) -> tuple[str, bool]:
    """What the suite says in all, and whether it made sense: some guesses, no wrong text."""
    all_made = [figures for by_policy in found.values() for figures in by_policy.values()]
    num_wrong = sum(figures.num_wrong for figures in all_made)
    num_texts = sum(figures.num_texts for figures in all_made)
    joint = [by_policy["joint"] for by_policy in found.values() if "joint" in by_policy]
    guesses = max((figures.guessing_share for figures in joint), default=0.0)
    lines = [
        *standing(found),
        f"texts that differ from the recording: {num_wrong} of {num_texts}",
        f"largest share of passes with guesses under joint: {guesses:.2f}",
    ]
    return "\n".join(lines), num_wrong == 0 and (guesses > 0 or not joint)
