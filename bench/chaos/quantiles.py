"""Three figures that describe the times of many events."""

from __future__ import annotations

from collections.abc import Sequence


def quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, p99 and maximum, each one of the values; NaN if there are no values."""
    if not values:
        return (float("nan"),) * 3
    ordered = sorted(values)
    p50, p99 = (ordered[min(len(ordered) - 1, int(q * len(ordered)))] for q in (0.5, 0.99))
    return p50, p99, ordered[-1]


def spread(seconds: Sequence[float]) -> str:
    """Return the quantiles as text."""
    if not seconds:
        return "none"
    p50, p99, longest = quantiles(seconds)
    return f"p50 {p50:.2f} s, p99 {p99:.2f} s, max {longest:.2f} s"
