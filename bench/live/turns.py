"""Several turns of each policy in one setting: figures of all, ratios turn by turn. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, median, stdev

from bench.live.edge_hub import Figures

Error = tuple[float, float, int]


def together(turns: Sequence[Figures]) -> Figures:
    """Means of rates, sums of counts, medians of errors; at least one turn."""
    stages = sorted({stage for turn in turns for stage in turn.errors or {}})
    reasons = Counter[str]()
    for turn in turns:
        reasons.update(turn.reasons)
    return Figures(
        tokens_per_s=fmean(turn.tokens_per_s for turn in turns),
        promised=fmean(turn.promised for turn in turns),
        token_s=fmean(turn.token_s for turn in turns),
        num_rounds=sum(turn.num_rounds for turn in turns),
        num_plain_steps=sum(turn.num_plain_steps for turn in turns),
        num_guesses=sum(turn.num_guesses for turn in turns),
        num_accepted=sum(turn.num_accepted for turn in turns),
        num_texts=sum(turn.num_texts for turn in turns),
        num_wrong=sum(turn.num_wrong for turn in turns),
        wire_bytes=sum(turn.wire_bytes for turn in turns),
        errors={
            stage: _error([turn.errors[stage] for turn in turns if stage in (turn.errors or {})])  # type: ignore[index]
            for stage in stages
        },
        reasons=dict(reasons),
        by_turn=[turn.tokens_per_s for turn in turns],
    )


def _error(errors: Sequence[Error]) -> Error:
    seen = [error for error in errors if error[2]] or [(0.0, 0.0, 0)]
    count = sum(number for _, _, number in seen)
    return median(middle for middle, _, _ in seen), median(p95 for _, p95, _ in seen), count


def with_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; nan of a single value."""
    error = stdev(values) / sqrt(len(values)) if len(values) > 1 else float("nan")
    return fmean(values), error


def rate_of(figures: Figures) -> str:
    """Tokens/s as rows say them: with the standard error, where there were several turns."""
    noise = f" ± {with_error(figures.by_turn)[1]:.1f}" if len(figures.by_turn) > 1 else ""
    return f"{figures.tokens_per_s:.1f}{noise}"


def to_best(by_policy: Mapping[str, Figures]) -> tuple[str, float, float] | None:
    """The policy that gave most tokens beside auto, and what auto gave of its tokens: the mean
    over turns and its standard error. None without both."""
    auto = by_policy.get("auto")
    others = {name: figures for name, figures in by_policy.items() if name != "auto"}
    if auto is None or not others:
        return None
    best = max(others, key=lambda name: others[name].tokens_per_s)
    pairs = zip(_by_turn(auto), _by_turn(others[best]), strict=True)
    return best, *with_error([mine / its for mine, its in pairs])


def _by_turn(figures: Figures) -> Sequence[float]:
    return figures.by_turn or [figures.tokens_per_s]
