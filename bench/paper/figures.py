"""The eight figures that the paper prints, and the corresponding figures of this model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

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
