"""Measures what passes of a stage take."""

from __future__ import annotations

import math
import time
from itertools import accumulate
from typing import Final

import numpy as np

from airdraft.nodes.engine.split.stage import Piece, StageModel
from airdraft.policies.latency import CostTable

_SIZES: Final = (1, 2, 4, 8, 16)
# The least time of so many passes counts, since other work only makes them slower.
_ROUNDS: Final = 4


def stage_times(model: StageModel) -> CostTable:
    """Returns the times of passes of one sequence by tokens. The stage is empty before and after.

    Raises EngineError.
    """
    rows = np.random.default_rng(1).standard_normal((_SIZES[-1], model.width), np.float32)
    least = dict.fromkeys(_SIZES, math.inf)
    for _ in range(_ROUNDS):
        for size in _SIZES:
            began = time.perf_counter()
            model.run([Piece(0, 0, size)], rows[:size])
            least[size] = min(least[size], time.perf_counter() - began)
            model.truncate(0, 0)
    # A pass takes at most as long as a larger one was seen to.
    seconds = list(accumulate((least[size] for size in reversed(_SIZES)), min))[::-1]
    return CostTable(_SIZES, tuple(seconds))
