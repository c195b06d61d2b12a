"""How far predicted times of rounds are from the observed ones, stage by stage."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

# draft: a draft node's part of a round. link: the way there and back. pass: of the target.
# lap: a round of a whole batch, against the cycle that was predicted for it.
Stage = Literal["draft", "link", "pass", "lap"]
STAGES: Final[tuple[Stage, ...]] = ("draft", "link", "pass", "lap")
_MEMORY: Final = 1000


@dataclass(frozen=True, slots=True)
class ErrorFigures:
    """|observed - predicted| / predicted of one stage, over the last 1,000 at most.

    num_seen: since the start. 0.0 where nothing was seen yet.
    """

    num_seen: int = 0
    median: float = 0.0
    p95: float = 0.0


class StageErrors:
    """Running errors of the predictions of each stage; cheap enough to be always there."""

    def __init__(self) -> None:
        self._errors: dict[Stage, deque[float]] = {stage: deque(maxlen=_MEMORY) for stage in STAGES}
        self._num_seen = dict.fromkeys(STAGES, 0)

    def observe(self, stage: Stage, observed_s: float, predicted_s: float) -> None:
        """Note one; what took or was to take no time is taken as not known."""
        if observed_s > 0.0 and predicted_s > 0.0:
            self._errors[stage].append(abs(observed_s - predicted_s) / predicted_s)
            self._num_seen[stage] += 1

    def figures(self) -> Mapping[Stage, ErrorFigures]:
        return {stage: self._figures(stage) for stage in STAGES}

    def _figures(self, stage: Stage) -> ErrorFigures:
        errors = self._errors[stage]
        if not errors:
            return ErrorFigures()
        median, p95 = np.quantile(np.array(errors), (0.5, 0.95))
        return ErrorFigures(self._num_seen[stage], float(median), float(p95))
