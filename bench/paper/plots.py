"""PNG files of the curves. matplotlib is loaded only when a figure is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.paper.delay import DelayCurve
from bench.paper.scenario import SCHEMES
from bench.paper.sweeps import LATENCY, UPLOAD, Result, Sweep
from bench.paper.tables import estimate, metrics_in

_LOG_AXES = ("bandwidth_hz", "draft_speed", "payload_bytes")
_LABELS = {
    "num_tasks": "tasks",
    "bandwidth_hz": "bandwidth of the cell (Hz)",
    "fixed_gamma": "gamma of fixed-gamma and static",
    "alpha_mean": "mean acceptance",
    "draft_speed": "speed of the draft node (times its profile)",
    "shadowing_db": "shadowing (dB)",
    "target_overlap": "overlap of computing and reading on the target",
    "payload_bytes": "bytes a prompt token",
}
_MARKERS = "osv^<>DPX*ph"


def _figure(columns: int, rows: int = 1) -> tuple[Any, Any, Any]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Without pyplot no window system is involved and no figure needs closing.
    figure = Figure(figsize=(4.4 * columns, 3.4 * rows), dpi=70, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False), mpl.colormaps["tab20"]


def _style(colours: Any, scheme: str) -> dict[str, Any]:
    number = SCHEMES.index(scheme)
    joint = scheme == "joint"
    return {
        "color": "black" if joint else colours(number * 2 % 20 + (number >= 10)),
        "marker": _MARKERS[number],
        "markersize": 4,
        "linewidth": 2.0 if joint else 1.1,
        "capsize": 2,
        "label": scheme,
        "zorder": 3 if joint else 2,
        "elinewidth": 0.7,
    }


def plot_sweep(path: Path, sweep: Sweep, results: Sequence[Result]) -> None:
    """Draw each scheme's latency and joint's reduction over an axis, with a column per metric."""
    metrics = metrics_in(results)
    figure, panels, colours = _figure(len(metrics), 2)
    labels = [one.point.labels[0] for one in results]
    named = any(isinstance(label, str) for label in labels)
    x = np.arange(len(labels)) if named else np.array(labels, dtype=np.float64)
    for (top, bottom), metric in zip(panels.T, metrics, strict=True):
        for scheme in SCHEMES:
            known = [k for k, one in enumerate(results) if (LATENCY, metric, scheme) in one.values]
            if not known:
                continue
            style = _style(colours, scheme)
            found = [estimate(results[k].values[LATENCY, metric, scheme]) for k in known]
            cuts = [estimate(results[k].reductions(LATENCY, metric, scheme)) for k in known]
            for panel, kind, scale in ((top, found, 1), (bottom, cuts, 100)):
                means = [scale * one.mean for one in kind]
                panel.errorbar(x[known], means, [scale * one.half for one in kind], **style)
        top.set(title=f"{metric} latency (s)", yscale="log")
        bottom.set(title=f"reduction by joint, {metric} (%)", xlabel=_LABELS.get(sweep.name, ""))
        for panel in (top, bottom):
            if sweep.name in _LOG_AXES:
                panel.set_xscale("log")
            if named:
                panel.set_xticks(x, labels)
            panel.grid(alpha=0.3)
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right upper", fontsize="small")
    figure.savefig(path)


def plot_payload(
    path: Path, results: Sequence[Result], marks: Sequence[tuple[str, str, float, str]]
) -> None:
    """Draw reductions over the payload, with a line for each bandwidth.

    marks: (scope, scheme, level of the paper, metric) of each panel.
    """
    figure, panels, colours = _figure(len(marks))
    widths = list(dict.fromkeys(one.point.labels[1] for one in results))
    for panel, (scope, scheme, level, metric) in zip(panels[0], marks, strict=True):
        for number, width in enumerate(widths):
            mine = [one for one in results if one.point.labels[1] == width]
            found = [estimate(one.reductions(scope, metric, scheme)) for one in mine]
            panel.errorbar(
                [float(one.point.labels[0]) for one in mine],
                [100 * one.mean for one in found],
                [100 * one.half for one in found],
                marker=_MARKERS[number],
                capsize=2,
                color=colours(2 * number),
                label=f"{float(width) / 1e6:g} MHz",
            )
        panel.axhline(100 * level, color="black", linestyle="--", linewidth=1)
        panel.set(
            title=f"below {scheme} ({metric}, {scope}), %",
            xlabel=_LABELS["payload_bytes"],
            xscale="log",
        )
        panel.title.set_fontsize("medium")
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    figure.savefig(path)


def plot_delay(path: Path, curves: Sequence[DelayCurve]) -> None:
    """Draw the best gammas by delay for both places of the coordinator."""
    figure, panels, colours = _figure(2)
    apart, one_box = panels[0]
    for number, curve in enumerate(curves):
        style = {"color": colours(2 * number), "label": f"acceptance {curve.alpha:g}"}
        apart.step(curve.rtt_s, curve.apart, where="mid", **style)
        fit = curve.slope * np.log(curve.rtt_s) + curve.intercept
        apart.plot(curve.rtt_s, np.where(fit > 0, fit, np.nan), "--", color=style["color"], lw=0.9)
        one_box.step(curve.rtt_s, curve.one_box, where="mid", **style)
        if curve.critical_s > 0:
            one_box.axvline(curve.critical_s, color=style["color"], linestyle=":", linewidth=1)
    apart.set_title("every round crosses the network: best gamma >= 1\n(dashed: fit)")
    one_box.set_title("target and coordinator on one box: best gamma\n(dotted: critical delay)")
    for panel in (apart, one_box):
        panel.title.set_fontsize("medium")
        panel.set(xscale="log", xlabel="round trip (s)", ylabel="best gamma")
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    figure.savefig(path)


def plot_all(
    out: Path,
    swept: Sequence[tuple[Sweep, Sequence[Result]]],
    curves: Sequence[DelayCurve],
    uniform_level: float,
    batching_level: float,
) -> None:
    """Draw every figure of a run into a folder."""
    for sweep, results in swept:
        if sweep.name == "payload":
            marks = (
                (UPLOAD, "uniform-air", uniform_level, "makespan"),
                (LATENCY, "uniform-air", uniform_level, "makespan"),
                (LATENCY, "max-batch", batching_level, "mean"),
            )
            known = [mark for mark in marks if (mark[0], mark[3], mark[1]) in results[0].values]
            if known:
                plot_payload(out / "payload.png", results, known)
        else:
            plot_sweep(out / f"{sweep.name}.png", sweep, results)
    plot_delay(out / "delay.png", curves)
