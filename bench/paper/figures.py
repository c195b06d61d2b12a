"""The eight figures that the paper prints, and the corresponding figures of this model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from bench.paper.model import Pair, upload_s
from bench.paper.program import serve
from bench.paper.setting import Setting, draw
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
    changes: changed values of the setting's tasks. bandwidth_hz: changed bandwidth, 0 for none."""

    name: str
    pair: Pair
    scheme: str
    printed: float
    changes: Mapping[str, int]
    bandwidth_hz: float = 0.0

    def setting_of(self, base: Setting) -> Setting:
        setting = replace(base, tasks=replace(base.tasks, **self.changes))
        if self.bandwidth_hz:
            cell = replace(setting.cell, bandwidth_hz=self.bandwidth_hz)
            setting = replace(setting, cell=cell)
        return setting


_WIDE_HZ: Final = 25e6
FIGURES: Final = (
    Figure("no pipeline, inputs to 512", MIDDLE, "no-pipeline", 0.316, {"max_input": 512}),
    Figure("no pipeline, outputs to 1792", MIDDLE, "no-pipeline", 0.307, {"max_output": 1792}),
    Figure("max batching, 90 tasks", MIDDLE, "max-batching", 0.214, {"num": 90}),
    Figure("heuristic, inputs to 1792", MIDDLE, "heuristic", 0.196, {"max_input": 1792}),
    Figure("heuristic, outputs to 1024", MIDDLE, "heuristic", 0.205, {"max_output": 1024}),
    Figure("uniform bands, 68M and 7B", SMALL, "uniform", 0.449, {}, _WIDE_HZ),
    Figure("uniform bands, 1.1B and 7B", MIDDLE, "uniform", 0.293, {}, _WIDE_HZ),
    Figure("uniform bands, 1.1B and 13B", LARGE, "uniform", 0.252, {}, _WIDE_HZ),
)


def seconds(setting: Setting, pair: Pair, scheme: str) -> Floats:
    """Return (seeds,) seconds of upload and inference. scheme: one of program.SCHEMES, or "uniform"
    for the joint one with the same band for all."""
    found = []
    for seed in setting.run.every:
        tasks = draw(setting, seed)
        sent_s = upload_s(setting, tasks, is_uniform=scheme == "uniform")
        name = "joint" if scheme == "uniform" else scheme
        found.append(sent_s + serve(setting, pair, tasks.inputs, name).seconds)
    return np.array(found)


def reductions(figure: Figure, base: Setting) -> Floats:
    """Return (seeds,) reductions by the joint scheme, as shares of the other scheme's total."""
    setting = figure.setting_of(base)
    ours = seconds(setting, figure.pair, "joint")
    return 1.0 - ours / seconds(setting, figure.pair, figure.scheme)


def needed_bits(figure: Figure, base: Setting) -> float:
    """Return the bits of a prompt token with which the mean reduction against uniform bands equals
    the printed one; all other values are those of the setting."""
    setting = figure.setting_of(base)
    infer_s, together_s, uniform_s = [], [], []
    for seed in setting.run.every:
        tasks = draw(setting, seed)
        infer_s.append(serve(setting, figure.pair, tasks.inputs, "joint").seconds)
        together_s.append(upload_s(setting, tasks))
        uniform_s.append(upload_s(setting, tasks, is_uniform=True))
    ours, theirs, inference = map(np.array, (together_s, uniform_s, infer_s))
    low, high = 0.0, 1e9
    while high - low > 1e-6 * high:
        times = (low + high) / 2
        cut = 1.0 - (inference + times * ours) / (inference + times * theirs)
        low, high = (times, high) if cut.mean() < figure.printed else (low, times)
    return setting.cell.bits_a_token * high


def joint_ratios(base: Setting) -> tuple[float, ...]:
    """Return the joint totals of the three pairs over that of the first, with _WIDE_HZ."""
    setting = replace(base, cell=replace(base.cell, bandwidth_hz=_WIDE_HZ))
    totals = [float(seconds(setting, pair, "joint").mean()) for pair in PAIRS]
    return tuple(total / totals[0] for total in totals)
