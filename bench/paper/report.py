"""The whole evaluation: sweeps, files, and a page of Markdown made from their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from bench.paper.delay import DelayCurve, delay_curves
from bench.paper.levels import BATCHING_LEVEL, UNIFORM_LEVEL, Swept, levels, percent
from bench.paper.plots import plot_all
from bench.paper.scenario import Scenario
from bench.paper.sweeps import LATENCY, UPLOAD, Runner, sweeps_of
from bench.paper.tables import (
    Reduction,
    estimate,
    metrics_in,
    reductions_of,
    regime_of,
    write_delay,
    write_reductions,
    write_sweep,
)

_ALONG = ("ad", "fixed-gamma", "static", "max-batch", "uniform-air", "no-overlap", "joint-step")


def run_paper(scenario: Scenario, out: Path, tell: Callable[[str], None]) -> None:
    """Run all sweeps and write report.md, CSV and PNG files to a folder.

    tell: receives lines of progress. Raises ScenarioError if the tasks do not fit the nodes.
    """
    sweeps = sweeps_of(scenario)
    for sweep in sweeps:
        for point in sweep.points:
            point.variant.world()
    out.mkdir(parents=True, exist_ok=True)
    runner = Runner()
    swept = []
    for sweep in sweeps:
        tell(f"{sweep.name}: {len(sweep.points)} points, {scenario.run.seeds} seeds")
        results = [runner.result(point) for point in sweep.points]
        write_sweep(out / f"{sweep.name}.csv", sweep, results)
        swept.append((sweep, results))
    reductions = [one for sweep, results in swept for one in reductions_of(sweep, results)]
    write_reductions(out / "reductions.csv", reductions)
    (out / "reductions.md").write_text("\n".join(_every(reductions)) + "\n")
    curves = delay_curves(scenario)
    write_delay(out / "delay.csv", curves)
    plot_all(out, swept, curves, UNIFORM_LEVEL, BATCHING_LEVEL)
    (out / "report.md").write_text(report(scenario, swept, reductions, curves))


def report(
    scenario: Scenario, swept: Swept, reductions: Sequence[Reduction], curves: Sequence[DelayCurve]
) -> str:
    """Return the page. Every number in it comes from the arguments."""
    parts = (
        _setting(scenario),
        _by_scheme(reductions),
        _by_axis(swept),
        _by_tasks(swept),
        levels(swept),
        _net(swept),
        _delay(scenario, curves),
        _CAVEATS,
    )
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _setting(scenario: Scenario) -> Iterator[str]:
    tasks, cell, run = scenario.tasks, scenario.cell, scenario.run
    yield "# The evaluation of arXiv 2510.11331 in this project's model"
    yield ""
    yield "Made by `python -m bench paper`; the values, each with its reason or source, are in"
    yield "`bench/scenarios/paper.toml`."
    yield (
        f"{scenario.models.draft} on {scenario.devices.draft} drafts for {scenario.models.target} "
        f"on {scenario.devices.target}; {tasks.num} tasks, {cell.bandwidth_hz / 1e6:g} MHz, "
        f"{tasks.payload_bytes:g} bytes a prompt token, acceptance {tasks.alpha_mean:g} "
        f"+- {tasks.alpha_std:g}, {run.seeds} seeds; each sweep varies one of these. Figures are "
        "means over seeds, +- is a 95 % confidence interval, a reduction is that of `joint` "
        "against the scheme, seed by seed. Every scheme, sweep and metric: `reductions.md`."
    )


def _by_scheme(reductions: Sequence[Reduction]) -> Iterator[str]:
    metrics = tuple(dict.fromkeys(one.metric for one in reductions))
    yield "## Largest and mean reduction, all sweeps"
    yield ""
    yield f"| Scheme | {' | '.join(f'{metric}: mean, largest, where' for metric in metrics)} |"
    yield "| --- |" + " --- |" * len(metrics)
    for scope, scheme in dict.fromkeys((one.scope, one.scheme) for one in reductions):
        if scope == UPLOAD and scheme == "joint-step":
            continue
        cells = []
        for metric in metrics:
            wanted = (scope, scheme, metric)
            mine = [r for r in reductions if (r.scope, r.scheme, r.metric) == wanted]
            top = max(mine, key=lambda one: one.largest.mean)
            mean = float(np.mean([one.mean for one in mine]))
            cells.append(f"{percent(mean)}, {_interval(top)}, {top.regime}")
        yield f"| {scheme}{', upload alone' * (scope == UPLOAD)} | {' | '.join(cells)} |"


def _interval(one: Reduction) -> str:
    return f"{percent(one.largest.mean)} +- {100 * one.largest.half:.1f}"


def _every(reductions: Sequence[Reduction]) -> Iterator[str]:
    yield "# By how much `joint` is below each scheme"
    yield ""
    yield "Over the points of a sweep: the mean, the largest with its 95 % interval, and where."
    yield ""
    yield "| Sweep | Metric | Scheme | Mean | Largest | Where |"
    yield "| --- | --- | --- | ---: | ---: | --- |"
    for one in reductions:
        yield (
            f"| {one.sweep} | {one.metric}, {one.scope} | {one.scheme} | {percent(one.mean)} | "
            f"{_interval(one)} | {one.regime} |"
        )


def _by_axis(swept: Swept) -> Iterator[str]:
    """Yield the range of the first metric's reduction along each axis."""
    metric = metrics_in(swept[0][1])[0]
    names = [name for name in _ALONG if (LATENCY, metric, name) in swept[0][1][0].values]
    yield f"## Along each axis: {metric} latency, least to most that `joint` is below"
    yield ""
    yield f"| Axis | {' | '.join(names)} |"
    yield "| --- |" + " ---: |" * len(names)
    for sweep, results in swept:
        cells = []
        for name in names:
            cuts = [100 * float(one.reductions(LATENCY, metric, name).mean()) for one in results]
            cells.append(f"{min(cuts):.1f} to {max(cuts):.1f} %")
        yield f"| {sweep.name} | {' | '.join(cells)} |"


def _by_tasks(swept: Swept) -> Iterator[str]:
    sweep, results = swept[0]
    ends = (results[0], results[-1])
    metrics = metrics_in(results)
    yield f"## By scheme at {' and '.join(regime_of(sweep, one.point.labels) for one in ends)}"
    yield ""
    heads = [
        f"{one.point.labels[0]}: {metric} (s), joint below" for one in ends for metric in metrics
    ]
    yield f"| Scheme | {' | '.join(heads)} |"
    yield "| --- |" + " ---: |" * len(heads)
    names = dict.fromkeys(key[2] for one in ends for key in one.values)
    for scheme in ("joint", *(name for name in names if name != "joint")):
        cells = []
        for one in ends:
            for metric in metrics:
                seconds = estimate(one.values[LATENCY, metric, scheme])
                cut = float(one.reductions(LATENCY, metric, scheme).mean())
                less = "" if scheme == "joint" else f", {percent(cut)}"
                cells.append(f"{seconds.mean:.1f} +- {seconds.half:.1f}{less}")
        yield f"| {scheme} | {' | '.join(cells)} |"
    cells = []
    for one in ends:
        for metric in metrics:
            seconds = estimate(one.values[UPLOAD, metric, "uniform-air"])
            cut = float(one.reductions(UPLOAD, metric, "uniform-air").mean())
            cells.append(f"{1e3 * seconds.mean:.2g} ms, {percent(cut)}")
    yield f"| uniform-air, upload alone | {' | '.join(cells)} |"


def _net(swept: Swept) -> Iterator[str]:
    """Yield how far the planner alone is from the rollout."""
    yield "## The planner without its safety net"
    yield ""
    for metric in metrics_in(swept[0][1]):
        cuts = [
            (cut, regime_of(sweep, one.point.labels))
            for sweep, results in swept
            for one in results
            for cut in one.reductions(LATENCY, metric, "joint-step").tolist()
        ]
        values = np.array([cut for cut, _ in cuts])
        same, gain = percent((values <= 0).mean()), percent(values[values > 0].mean())
        top, regime = max(cuts)
        yield (
            f"- {metric}: `joint` is no better than `joint-step` in {same} of {len(values)} "
            f"points and seeds; elsewhere it is {gain} lower on average, {percent(top)} at most "
            f"({regime})."
        )


def _delay(scenario: Scenario, curves: Sequence[DelayCurve]) -> Iterator[str]:
    yield "## Delay (arXiv 2606.20591), one stream"
    yield ""
    yield (
        "| Acceptance | Guesses gained per e-fold of delay, fitted | 1/ln(1/alpha) | "
        "Rest of the fit, root mean square | Critical delay, target and coordinator on one box |"
    )
    yield "| ---: | ---: | ---: | ---: | ---: |"
    for one in curves:
        yield (
            f"| {one.alpha:g} | {one.slope:.2f} | {one.law:.2f} | {one.residual:.2f} guesses | "
            f"{1e3 * one.critical_s:.0f} ms |"
        )
    yield ""
    yield (
        f"Fitted above {scenario.delay.fit_above_s:g} s, where the delay outweighs the passes. "
        "On one box the best gamma falls to 0 above the critical delay (`delay.png`)."
    )


_CAVEATS = (
    "## To be read with it",
    "",
    "- `joint` is a rollout: it sees every other scheme's whole run in this model and takes the",
    "  best for each metric, so it is never above any. `joint-step` is the planner alone.",
    "- Of the paper only the abstract and summaries could be read, not its parameters: equal",
    "  figures would be luck, and nothing was tuned towards them.",
    "- Acceptance takes its expected value, costs are exact, a pass reads the whole cache (one",
    "  unified cache, as the engine has), so schemes of many batches pay for it in each.",
    "- Tasks enter in the order of arrival. Where not all fit the cache (`desktop-gpu`,",
    "  `mini-pc`), uniform bands let short prompts in first: `joint` takes that for means there.",
    "- All schemes but `uniform-air` have the closed-form bands, with which all prompts are there",
    "  at one moment; `joint` may also give the band to groups in turn where uploads matter, and",
    "  most of what it gains at large payloads is that. `static` pads prompts to the longest of",
    "  its batch and verifies ended members until the last has ended.",
    "- That passes of some dozens of tokens cost no more than one on the AGX Orin is extrapolated;",
    "  `target_overlap` 0 shows the opposite assumption, `target_device` other nodes.",
)
