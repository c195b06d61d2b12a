"""The page of the paper's figures as printed, with its data."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

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
from bench.paper.program import SCHEMES, exact_bounds, paper_bounds, serve
from bench.paper.setting import Setting, draw
from policies.acceptance import Floats

# A figure counts as reproduced within this difference (0.03 is three percentage points).
_NEAR: Final = 0.03
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
        name: tuple(dict.fromkeys((values[0], values[len(values) // 2], values[-1])))
        for name in ("bits_a_token", "c2_factor")
        for values in [getattr(setting.sweep, name)]
    }
    return replace(
        setting,
        sweep=replace(setting.sweep, **thin),
        run=replace(setting.run, seeds=min(_QUICK_SEEDS, setting.run.seeds)),
    )


def run_printed(setting: Setting, out: Path, tell: Callable[[str], None]) -> None:
    """Write printed.md, printed.csv and printed-sweep.csv to a folder."""
    out.mkdir(parents=True, exist_ok=True)
    tell(f"{len(FIGURES)} figures, {setting.run.seeds} seeds")
    found = [reductions(figure, setting) for figure in FIGURES]
    points = []
    for bits in setting.sweep.bits_a_token:
        tell(f"{bits:g} bits a token")
        points += [_point(setting, bits, factor) for factor in setting.sweep.c2_factor]
    with (out / "printed.csv").open("w", newline="") as file:
        write = csv.writer(file)
        write.writerow(["figure", "printed", "mean", "least", "most"])
        for figure, ours in zip(FIGURES, found, strict=True):
            row = ours.mean(), ours.min(), ours.max()
            write.writerow([figure.name, figure.printed, *(f"{v:.4f}" for v in row)])
    with (out / "printed-sweep.csv").open("w", newline="") as file:
        write = csv.writer(file)
        write.writerow(["bits_a_token", "c2_factor", *(figure.name for figure in FIGURES)])
        for point in points:
            cells = (f"{value:.4f}" for value in point.reductions)
            write.writerow([f"{point.bits_a_token:g}", f"{point.c2_factor:g}", *cells])
    tell("schemes, and the program beside the exact one")
    (out / "printed.md").write_text("\n".join(_page(setting, found, points)) + "\n")


def _point(setting: Setting, bits: float, factor: float) -> Point:
    other = replace(
        setting,
        cell=replace(setting.cell, bits_a_token=bits),
        devices=replace(setting.devices, c2_factor=factor),
    )
    means = tuple(float(reductions(figure, other).mean()) for figure in FIGURES)
    return Point(bits, factor, means)


def _page(setting: Setting, found: Sequence[Floats], points: Sequence[Point]) -> Iterator[str]:
    yield "# The figures of arXiv 2510.11331 as printed"
    yield ""
    yield "This page compares the eight reductions of the total latency that the paper prints with"
    yield "the same in the paper's own model, as far as secondary notes on its text describe it."
    yield "`python -m bench paper` makes it. The values, and a reason"
    yield "for each that the notes do not give, are in `bench/scenarios/paper-as-printed.toml`."
    yield "They were committed before any result. Figures are means over"
    yield f"{setting.run.seeds} seeds."
    yield ""
    heads = "reduction against", "printed", "ours (least to most)", "points off", "in the sweep"
    yield f"| {' | '.join(heads)} | verdict |"
    yield "|---|---|---|---|---|---|"
    for k, (figure, ours) in enumerate(zip(FIGURES, found, strict=True)):
        mean = float(ours.mean())
        swept = [point.reductions[k] for point in points]
        span = f"{_percent(min(swept))} to {_percent(max(swept))}"
        yield (
            f"| {figure.name} | {_percent(figure.printed)} | {_percent(mean)} "
            f"({_percent(ours.min())} to {_percent(ours.max())}) "
            f"| {100 * (mean - figure.printed):+.1f} | {span} | {_verdict(figure, mean, swept)} |"
        )
    yield ""
    yield f"A figure is *reproduced* within {100 * _NEAR:.0f} points. It is *in reach* where the"
    yield "sweep of the two values that decide and are not known, bits of a token and c2, goes past"
    yield "it."
    yield ""
    yield from _ratios(setting, points)
    yield from _schemes(setting)
    yield from _exact(setting)
    yield from _REASONS


def _verdict(figure: Figure, mean: float, swept: Sequence[float]) -> str:
    if abs(mean - figure.printed) <= _NEAR:
        return "reproduced"
    return "in reach" if min(swept) <= figure.printed <= max(swept) else "not reproduced"


def _ratios(setting: Setting, points: Sequence[Point]) -> Iterator[str]:
    ours, printed = joint_ratios(setting), PRINTED_RATIOS
    yield "## A check that needs no payload"
    yield ""
    yield "What uniform bands lose is the same upload time for all three pairs. So the printed"
    yield "reductions say how the joint totals of the pairs stand to each other: as"
    yield f"{_ratio(printed)}. Here they stand as {_ratio(ours)}."
    yield ""
    needed = [f"{needed_bits(figure, setting):,.0f}" for figure in FIGURES[-3:]]
    yield "Each pair has its printed figure here with a certain number of bits a token:"
    yield f"{', '.join(needed)}. In the sweep, with c2 as it is, the figures are:"
    yield ""
    yield "| bits a token | " + " | ".join(figure.name for figure in FIGURES[-3:]) + " |"
    yield "|---|---|---|---|"
    for point in points:
        if point.c2_factor == setting.devices.c2_factor:
            cells = " | ".join(map(_percent, point.reductions[-3:]))
            yield f"| {point.bits_a_token:,.0f} | {cells} |"
    yield ""


def _schemes(setting: Setting) -> Iterator[str]:
    yield "## Seconds of every scheme"
    yield ""
    names = [*SCHEMES]
    yield f"| pair | {' | '.join(names)} |"
    yield "|---|" + "---|" * len(names)
    tasks = draw(setting, setting.run.first_seed)
    for pair in PAIRS:
        served = [serve(setting, pair, tasks.inputs, name) for name in names]
        cells = (f"{s.seconds:.0f} (l {s.length}, {len(s.bounds) - 1})" for s in served)
        yield f"| {pair.draft}, {pair.target} | {' | '.join(cells)} |"
    yield ""
    yield "In brackets: the speculation length and the number of batches. First seed, upload apart."
    yield ""
    yield "Joint to autoregressive decoding (`ad`), by acceptance:"
    yield ""
    yield f"| pair | {' | '.join(f'{alpha:g}' for alpha in _ACCEPTANCES)} |"
    yield "|---|" + "---|" * len(_ACCEPTANCES)
    yield from _by_acceptance(setting)
    yield ""


def _by_acceptance(setting: Setting) -> Iterator[str]:
    for pair in PAIRS:
        cells = []
        for alpha in _ACCEPTANCES:
            other = replace(setting, tasks=replace(setting.tasks, alpha=alpha))
            inputs = draw(other, setting.run.first_seed).inputs
            joint, plain = (serve(other, pair, inputs, name).seconds for name in ("joint", "ad"))
            cells.append(f"{joint / plain:.2f}")
        yield f"| {pair.draft}, {pair.target} | {' | '.join(cells)} |"


def _exact(setting: Setting) -> Iterator[str]:
    """Yield how far the recursion, which keeps one way for the first tasks, is from optimal."""
    lost = []
    for pair in PAIRS:
        for seed in range(setting.run.first_seed, setting.run.first_seed + _EXACT_SEEDS):
            order = np.sort(draw(setting, seed).inputs)
            for length in (1, 4, setting.tasks.max_length):
                stages = stages_of(setting, pair, length)
                best_s = total_s(stages, order, exact_bounds(stages, order))
                lost.append(total_s(stages, order, paper_bounds(stages, order)) / best_s - 1.0)
    yield "## The program"
    yield ""
    num, same = setting.tasks.num, sum(value < 1e-9 for value in lost)
    yield f"The recursion was run beside an exact program in {len(lost)} cases of {num} tasks:"
    yield f"it was as good in {same}, and {_percent(max(lost))} longer at most."
    yield "The exact one is equal to the best of all ways to cut for up to eight tasks (tests)."
    yield ""


_REASONS: Final = """\
## What the differences come from

- *Uniform bands.* Prompts of text are some megabits in all. 25 MHz carry them in milliseconds, and
  the inference takes minutes, so with 32 bits a token the band hardly matters. The three figures
  take 27,000 to 44,000 bits a token (above), which is no text. LLaMA-7B's embedding of a token,
  4,096 numbers, has 65,536 bits at 16 a number and 32,768 at 8: the paper's users may send such
  vectors. Means over few seeds scatter, because one weak channel decides what uniform bands take.
- *No pipeline.* Two stages that overlap gain most where both take equally long. By these data
  sheets the target takes most of a stage, so less is left to hide than the printed 31 %.
- *Max batching.* In this model a batch as large as memory allows is nearly the best, because each
  further batch reads all weights once more (c2). The printed 21 % need passes whose fixed part is
  small, and more padding than the cost of attention makes here.
- *Heuristic batching.* The notes do not say what it is. Length buckets come out on both sides.
- *Autoregressive decoding.* Here all tasks share one pass of the target, which is bound by its
  arithmetic then, and speculation computes more. The paper has speculation ahead at every
  acceptance, so its plain passes must hold fewer tasks, which the notes do not say.
""".splitlines()


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _ratio(values: Sequence[float]) -> str:
    return " : ".join(f"{value:.2f}" for value in values)
