"""Means with confidence intervals, reductions, and the CSV files."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist

import numpy as np

from bench.paper.delay import DelayCurve
from bench.paper.sweeps import LATENCY, UPLOAD, Result, Sweep
from policies.acceptance import Floats

SCOPES = (LATENCY, UPLOAD)
# Upload times depend only on how the band is shared, so the other schemes have the same ones.
UPLOAD_SCHEMES = ("joint", "joint-step", "uniform-air")
_UNITS = {
    "bandwidth_hz": (1e6, "MHz"),
    "payload_bytes": (1.0, "B/token"),
    "shadowing_db": (1.0, "dB"),
}
_NAMES = {"bandwidth_hz": "bandwidth", "payload_bytes": "payload", "shadowing_db": "shadowing"}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and the half width of its 95 % confidence interval."""

    mean: float
    half: float


@dataclass(frozen=True, slots=True)
class Reduction:
    """Reduction by joint against a scheme in one sweep: mean over points, largest, and where."""

    sweep: str
    scope: str
    metric: str
    scheme: str
    mean: float
    largest: Estimate
    regime: str


def estimate(values: Floats) -> Estimate:
    """Return the mean of (n,) values, n >= 2, with Student's interval."""
    spread = float(values.std(ddof=1)) / math.sqrt(len(values))
    return Estimate(float(values.mean()), student_t(len(values) - 1) * spread)


def student_t(freedom: int) -> float:
    """Return the 97.5 % quantile by its expansion in 1/freedom (Abramowitz and Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom ** (k + 1) for k, term in enumerate(terms))


def schemes_in(result: Result, scope: str) -> tuple[str, ...]:
    """Return the schemes for which a point has values, joint first."""
    names = dict.fromkeys(key[2] for key in result.values if key[0] == scope)
    ordered = ("joint", *(name for name in names if name != "joint"))
    return tuple(name for name in ordered if scope == LATENCY or name in UPLOAD_SCHEMES)


def metrics_in(results: Sequence[Result]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key[1] for key in results[0].values))


def regime_of(sweep: Sweep, labels: Sequence[float | str]) -> str:
    """Return a point in words: "payload 600 B/token, bandwidth 5 MHz"."""
    words = []
    for axis, value in zip(sweep.axes, labels, strict=True):
        if isinstance(value, str):
            words.append(f"{axis} {value}")
            continue
        scale, unit = _UNITS.get(axis, (1.0, ""))
        words.append(f"{_NAMES.get(axis, axis)} {value / scale:g} {unit}".rstrip())
    return ", ".join(words)


def reductions_of(sweep: Sweep, results: Sequence[Result]) -> Iterator[Reduction]:
    """Yield the reductions of joint against each other scheme, by scope and metric."""
    for scope in SCOPES:
        names = dict.fromkeys(name for one in results for name in schemes_in(one, scope))
        for metric in metrics_in(results):
            for scheme in names:
                if scheme == "joint":
                    continue
                present = [one for one in results if (scope, metric, scheme) in one.values]
                found = [estimate(one.reductions(scope, metric, scheme)) for one in present]
                top = max(range(len(found)), key=lambda k: found[k].mean)
                yield Reduction(
                    sweep.name,
                    scope,
                    metric,
                    scheme,
                    float(np.mean([one.mean for one in found])),
                    found[top],
                    regime_of(sweep, present[top].point.labels),
                )


def crossings(x: Sequence[float], y: Sequence[float], level: float) -> tuple[float, ...]:
    """Return where y passes a level, interpolated linearly over log x between neighbours."""
    found = []
    for (x0, y0), (x1, y1) in pairwise(zip(x, y, strict=True)):
        if (y0 - level) * (y1 - level) < 0:
            share = (level - y0) / (y1 - y0)
            found.append(math.exp(math.log(x0) + share * (math.log(x1) - math.log(x0))))
    return tuple(found)


def write_sweep(path: Path, sweep: Sweep, results: Sequence[Result]) -> None:
    """Write a line per point, scope, metric and scheme: seconds, and reductions as shares."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        head = ("scope", "metric", "scheme", "mean_s", "ci95_s", "reduction", "reduction_ci95")
        writer.writerow((*sweep.axes, *head, "seeds"))
        for result in results:
            for scope in SCOPES:
                for metric in metrics_in(results):
                    for scheme in schemes_in(result, scope):
                        values = result.values[scope, metric, scheme]
                        cut = estimate(result.reductions(scope, metric, scheme))
                        mine = estimate(values)
                        numbers = (mine.mean, mine.half, cut.mean, cut.half)
                        cells = (f"{number:.5g}" for number in numbers)
                        writer.writerow(
                            (*result.point.labels, scope, metric, scheme, *cells, len(values))
                        )


def write_reductions(path: Path, reductions: Sequence[Reduction]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ("sweep", "scope", "metric", "scheme", "mean", "largest", "largest_ci95", "regime")
        )
        for one in reductions:
            cells = (f"{number:.4f}" for number in (one.mean, one.largest.mean, one.largest.half))
            writer.writerow((one.sweep, one.scope, one.metric, one.scheme, *cells, one.regime))


def write_delay(path: Path, curves: Sequence[DelayCurve]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("alpha", "rtt_s", "best_gamma_apart", "best_gamma_one_box"))
        for curve in curves:
            for rtt_s, apart, one_box in zip(curve.rtt_s, curve.apart, curve.one_box, strict=True):
                writer.writerow((curve.alpha, f"{rtt_s:.6g}", apart, one_box))
