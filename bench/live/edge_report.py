"""The report of the edge suite: a row for each policy, and a summary of all settings. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan, sqrt
from statistics import fmean, median, stdev

from bench.harness.report import head, row
from bench.live.edge_hub import Figures
from bench.live.edge_setting import Setting

Error = tuple[float, float, int]
_COUNTS = (
    *("num_rounds", "num_plain_steps", "num_guesses", "num_accepted"),
    *("num_texts", "num_wrong", "wire_bytes"),
)
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


# -- several turns of each policy in one setting --------------------------------------------------


def together(turns: Sequence[Figures]) -> Figures:
    """Join the figures of turns: means of rates, sums of counts, medians of errors.

    turns: at least one.
    """

    def total(name: str) -> int:
        return sum(getattr(turn, name) for turn in turns)

    stages = sorted({stage for turn in turns for stage in turn.errors})
    return Figures(
        **{name: total(name) for name in _COUNTS},
        tokens_per_s=fmean(turn.tokens_per_s for turn in turns),
        promised=fmean(turn.promised for turn in turns),
        token_s=fmean(turn.token_s for turn in turns),
        errors={
            stage: _error([turn.errors[stage] for turn in turns if stage in turn.errors])
            for stage in stages
        },
        by_turn=[turn.tokens_per_s for turn in turns],
    )


def _error(errors: Sequence[Error]) -> Error:
    seen = [error for error in errors if error[2]] or [(0.0, 0.0, 0)]
    count = sum(number for _, _, number in seen)
    return median(middle for middle, _, _ in seen), median(p95 for _, p95, _ in seen), count


def with_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error, which is nan for a single value."""
    error = stdev(values) / sqrt(len(values)) if len(values) > 1 else float("nan")
    return fmean(values), error


def rate_of(figures: Figures) -> str:
    """Return tokens/s as text for a row, with the standard error if there were several turns."""
    noise = f" ± {with_error(figures.by_turn)[1]:.1f}" if len(figures.by_turn) > 1 else ""
    return f"{figures.tokens_per_s:.1f}{noise}"


def to_best(by_policy: Mapping[str, Figures]) -> tuple[str, float, float] | None:
    """Return the best policy beside auto, and auto's tokens relative to it: mean over turns and
    standard error. None without auto or another policy."""
    auto = by_policy.get("auto")
    others = {name: figures for name, figures in by_policy.items() if name != "auto"}
    if auto is None or not others:
        return None
    best = max(others, key=lambda name: others[name].tokens_per_s)
    pairs = zip(_by_turn(auto), _by_turn(others[best]), strict=True)
    return best, *with_error([mine / its for mine, its in pairs])


def _by_turn(figures: Figures) -> Sequence[float]:
    return figures.by_turn or [figures.tokens_per_s]
