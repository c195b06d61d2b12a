"""The page of the paper's figures as printed, with its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from bench.harness.report import head, note, row
from bench.paper.model import Pair, Setting, draw, load_setting, stages_of, total_s, upload_s
from bench.paper.program import SCHEMES, program_bounds, serve
from policies.acceptance import Floats

SMALL: Final = Pair("llama-68m", "llama-7b")
MIDDLE: Final = Pair("llama-1b", "llama-7b")
LARGE: Final = Pair("llama-1b", "llama-13b")
PAIRS: Final = (SMALL, MIDDLE, LARGE)
# Ratios of the joint totals, from the three figures for uniform bands if all save the same upload.
PRINTED_RATIOS: Final = tuple((1 / cut - 1) / (1 / 0.449 - 1) for cut in (0.449, 0.293, 0.252))


@dataclass(frozen=True, slots=True)
class Figure:
    """A printed reduction of the total against a scheme. printed: as a share of its total.
    changes: changed values of the setting."""

    name: str
    pair: Pair
    scheme: str
    printed: float
    changes: Mapping[str, Any]


_WIDE: Final[Mapping[str, Any]] = {"bandwidth_hz": 25e6}
FIGURES: Final = (
    Figure("no pipeline, inputs to 512", MIDDLE, "no-pipeline", 0.316, {"max_input": 512}),
    Figure("no pipeline, outputs to 1792", MIDDLE, "no-pipeline", 0.307, {"max_output": 1792}),
    Figure("max batching, 90 tasks", MIDDLE, "max-batching", 0.214, {"num_tasks": 90}),
    Figure("heuristic, inputs to 1792", MIDDLE, "heuristic", 0.196, {"max_input": 1792}),
    Figure("heuristic, outputs to 1024", MIDDLE, "heuristic", 0.205, {"max_output": 1024}),
    Figure("uniform bands, 68M and 7B", SMALL, "uniform", 0.449, _WIDE),
    Figure("uniform bands, 1.1B and 7B", MIDDLE, "uniform", 0.293, _WIDE),
    Figure("uniform bands, 1.1B and 13B", LARGE, "uniform", 0.252, _WIDE),
)


def seconds(setting: Setting, pair: Pair, scheme: str) -> Floats:
    """Return (seeds, 2) seconds of upload and of inference. scheme: one of program.SCHEMES, or
    "uniform" for the joint one with the same band for all."""
    is_uniform = scheme == "uniform"
    found = []
    for seed in setting.every_seed:
        tasks = draw(setting, seed)
        served = serve(setting, pair, tasks.inputs, "joint" if is_uniform else scheme)
        found.append((upload_s(setting, tasks, is_uniform=is_uniform), served.seconds))
    return np.array(found)


def reductions(figure: Figure, base: Setting) -> Floats:
    """Return (seeds,) reductions by the joint scheme, as shares of the other scheme's total."""
    setting = replace(base, **figure.changes)
    ours, theirs = (seconds(setting, figure.pair, name) for name in ("joint", figure.scheme))
    cut: Floats = 1.0 - ours.sum(axis=1) / theirs.sum(axis=1)
    return cut


def needed_bits(figure: Figure, base: Setting) -> float:
    """Return the bits of a prompt token with which the mean reduction against uniform bands equals
    the printed one; all other values are those of the setting."""
    setting = replace(base, **figure.changes)
    ours, theirs = (seconds(setting, figure.pair, name) for name in ("joint", "uniform"))
    low, high = 0.0, 1e9
    while high - low > 1e-6 * high:
        times = (low + high) / 2
        scale = np.array([times, 1.0])
        cut = 1.0 - (ours @ scale) / (theirs @ scale)
        low, high = (times, high) if cut.mean() < figure.printed else (low, times)
    return setting.bits_a_token * high


def joint_ratios(base: Setting) -> tuple[float, ...]:
    """Return the joint totals of the three pairs over that of the first, with a wide band."""
    setting = replace(base, **_WIDE)
    totals = [float(seconds(setting, pair, "joint").sum(axis=1).mean()) for pair in PAIRS]
    return tuple(total / totals[0] for total in totals)


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


@click.command("paper")
@click.option("--quick", is_flag=True, help="Use three values per sweep and three seeds.")
@click.option(
    "--out",
    default="build/paper",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the report.",
)
def paper_command(quick: bool, out: Path) -> None:
    """Compare printed figures of arXiv 2510.11331 with computed ones.

    They are computed in the paper's own model. The values are in
    bench/scenarios/paper-as-printed.toml.

    \b
    Example:
      python -m bench paper --quick --out build/paper
    """
    setting = load_setting()
    try:
        run_printed(fewer(setting) if quick else setting, out, note)
    except OSError as error:
        raise click.ClickException(f"{out}: {error.strerror}") from None
    click.echo(out / "printed.md")
