"""The page of the paper's figures as printed, with its data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from bench.harness.report import head, row
from bench.paper.figures import (
    FIGURES,
    PAIRS,
    PRINTED_RATIOS,
    Figure,
    joint_ratios,
    needed_bits,
    reductions,
)
from bench.paper.model import stages_of, total_s
from bench.paper.program import SCHEMES, program_bounds, serve
from bench.paper.setting import Setting, draw
from policies.acceptance import Floats

# A figure counts as reproduced within this difference (0.03 is three percentage points).
_NEAR: Final = 0.03
_TEMPLATE: Final = Path(__file__).with_name("printed.md.in")
_QUICK_SEEDS: Final = 3
_EXACT_SEEDS: Final = 3
_ACCEPTANCES: Final = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class Point:
    """The eight reductions, as means over seeds, for given bits per token and c2 factor."""

    bits_a_token: float
    c2_factor: float
    reductions: tuple[float, ...]


def fewer(setting: Setting) -> Setting:
    """Return the setting with fewer seeds, and the first, middle and last values of the sweep."""
    thin = {
        name: (values[0], values[len(values) // 2], values[-1])
        for name, values in setting.sweep.items()
    }
    return replace(setting, sweep=thin, seeds=_QUICK_SEEDS)


def run_printed(setting: Setting, out: Path, tell: Callable[[str], None]) -> None:
    """Write printed.md to a folder."""
    out.mkdir(parents=True, exist_ok=True)
    tell(f"{len(FIGURES)} figures, {setting.seeds} seeds")
    found = [reductions(figure, setting) for figure in FIGURES]
    points = []
    for bits in setting.sweep["bits_a_token"]:
        tell(f"{bits:g} bits a token")
        for factor in setting.sweep["c2_factor"]:
            other = replace(setting, bits_a_token=bits, c2_factor=factor)
            means = tuple(float(reductions(figure, other).mean()) for figure in FIGURES)
            points.append(Point(bits, factor, means))
    tell("schemes, and the program beside the exact one")
    lost = _lost(setting)
    page = _TEMPLATE.read_text().format(
        seeds=setting.seeds,
        figures=_figures(found, points),
        near=f"{100 * _NEAR:.0f}",
        printed_ratio=_ratio(PRINTED_RATIOS),
        our_ratio=_ratio(joint_ratios(setting)),
        needed_bits=", ".join(f"{needed_bits(figure, setting):,.0f}" for figure in FIGURES[-3:]),
        sweep=_sweep(setting, points),
        schemes=_schemes(setting),
        by_acceptance=_by_acceptance(setting),
        num_cases=len(lost),
        num_tasks=setting.num_tasks,
        num_same=sum(value < 1e-9 for value in lost),
        most_lost=_percent(max(lost)),
    )
    (out / "printed.md").write_text(page)


def _figures(found: Sequence[Floats], points: Sequence[Point]) -> str:
    columns = "reduction against", "printed", "ours (least to most)", "points off", "in the sweep"
    lines = [head(*columns, "verdict")]
    for k, (figure, ours) in enumerate(zip(FIGURES, found, strict=True)):
        mean = float(ours.mean())
        swept = [point.reductions[k] for point in points]
        lines.append(
            row(
                figure.name,
                _percent(figure.printed),
                f"{_percent(mean)} ({_percent(ours.min())} to {_percent(ours.max())})",
                f"{100 * (mean - figure.printed):+.1f}",
                f"{_percent(min(swept))} to {_percent(max(swept))}",
                _verdict(figure, mean, swept),
            )
        )
    return "\n".join(lines)


def _verdict(figure: Figure, mean: float, swept: Sequence[float]) -> str:
    if abs(mean - figure.printed) <= _NEAR:
        return "reproduced"
    return "in reach" if min(swept) <= figure.printed <= max(swept) else "not reproduced"


def _sweep(setting: Setting, points: Sequence[Point]) -> str:
    """Return the figures for uniform bands in the sweep, with c2 as it is."""
    lines = [head("bits a token", *(figure.name for figure in FIGURES[-3:]))]
    for point in points:
        if point.c2_factor == setting.c2_factor:
            cells = map(_percent, point.reductions[-3:])
            lines.append(row(f"{point.bits_a_token:,.0f}", *cells))
    return "\n".join(lines)


def _schemes(setting: Setting) -> str:
    """Return the seconds of every scheme, with its speculation length and number of batches."""
    lines = [head("pair", *SCHEMES)]
    inputs = draw(setting, setting.first_seed).inputs
    for pair in PAIRS:
        served = (serve(setting, pair, inputs, name) for name in SCHEMES)
        cells = (f"{s.seconds:.0f} (l {s.length}, {len(s.bounds) - 1})" for s in served)
        lines.append(row(f"{pair.draft}, {pair.target}", *cells))
    return "\n".join(lines)


def _by_acceptance(setting: Setting) -> str:
    """Return the seconds of the joint scheme over those of plain decoding."""
    lines = [head("pair", *(f"{alpha:g}" for alpha in _ACCEPTANCES))]
    for pair in PAIRS:
        cells = []
        for alpha in _ACCEPTANCES:
            other = replace(setting, alpha=alpha)
            inputs = draw(other, setting.first_seed).inputs
            joint, plain = (serve(other, pair, inputs, name).seconds for name in ("joint", "ad"))
            cells.append(f"{joint / plain:.2f}")
        lines.append(row(f"{pair.draft}, {pair.target}", *cells))
    return "\n".join(lines)


def _lost(setting: Setting) -> list[float]:
    """Return how much longer the recursion, which keeps one way for the first tasks, takes than the
    best way: a share for each case."""
    lost = []
    for pair in PAIRS:
        for seed in range(setting.first_seed, setting.first_seed + _EXACT_SEEDS):
            order = np.sort(draw(setting, seed).inputs)
            for length in (1, 4, setting.max_length):
                stages = stages_of(setting, pair, length)
                best_s = total_s(stages, order, program_bounds(stages, order, is_exact=True))
                lost.append(total_s(stages, order, program_bounds(stages, order)) / best_s - 1.0)
    return lost


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _ratio(values: Sequence[float]) -> str:
    return " : ".join(f"{value:.2f}" for value in values)
