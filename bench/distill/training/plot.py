"""The course of a training run as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def plot_log(log: Path, out: Path) -> None:
    """Loss of both phases, and agreement on held-out answers, against steps."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    lines: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()]
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 6))
    offset = 0
    for phase in dict.fromkeys(line["phase"] for line in lines):
        part = [line for line in lines if line["phase"] == phase]
        steps = [offset + line["step"] for line in part]
        above.plot(steps, [line["loss"] for line in part], label=f"{phase}, trained on")
        for axis, key in ((above, "held_out_loss"), (below, "held_out_agreement")):
            known = [(s, line[key]) for s, line in zip(steps, part, strict=True) if key in line]
            if known:
                axis.plot(*zip(*known, strict=True), marker="o", label=f"{phase}, held out")
        offset = steps[-1]
    above.set_ylabel("loss (nats)")
    below.set_ylabel("agreement with the target")
    below.set_xlabel("step")
    for axis in (above, below):
        axis.legend()
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    pyplot.close(figure)
