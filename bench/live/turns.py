"""Several turns of each policy in one setting: joint figures, and ratios turn by turn. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, median, stdev

from bench.live.edge_hub import Figures

Error = tuple[float, float, int]
_COUNTS = (
    *("num_rounds", "num_plain_steps", "num_guesses", "num_accepted"),
    *("num_texts", "num_wrong", "wire_bytes"),
)


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
