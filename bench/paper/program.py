"""The paper's dynamic program for batches, an exact program, and the schemes to compare with.

All of them cut tasks sorted by their inputs into batches, except static batching."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.paper.model import Pair, Setting, Stages, stages_of, total_s
from policies.acceptance import Floats
from policies.problem import Ints

Bounds = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Served:
    """Outcome of a scheme: seconds without the upload, speculation length, cuts between batches."""

    seconds: float
    length: int
    bounds: Bounds


class MemoryLimitError(ValueError):
    """A single task does not fit the draft node."""


def program_bounds(
    stages: Stages, inputs: Ints, *, has_pipeline: bool = True, is_exact: bool = False
) -> Bounds:
    """Return the batches by which all tasks are complete first. inputs: (K,) sorted.

    The recursion adds, to each way to serve the first tasks, a last batch that fits into memory. Of
    several ways to serve the first i tasks it continues with the one that completes first, as the
    paper's does, or, if is_exact, with all that could still become best.
    """
    # A way to serve the first tasks: how many, the way before its last batch, and the times at
    # which draft and target complete a stage and the seconds of reading.
    before = np.full(1, -1)
    ends, drafted_s, verified_s, read_s = np.zeros((4, 1))
    for i, longest in enumerate(inputs.astype(np.float64), 1):
        size = i - ends
        drafts_s = drafted_s if has_pipeline else verified_s
        drafts_s = drafts_s + stages.draft_s(longest, size)
        done_s = np.maximum(verified_s, drafts_s) + stages.verify_s(longest, size)
        reads_s = read_s + stages.read_s(longest, size)
        price_s = np.where(size <= stages.most(longest), reads_s + stages.num * done_s, np.inf)
        kept = np.array([price_s.argmin()])
        if is_exact:
            kept = _undominated(price_s, reads_s + stages.num * drafts_s)
        kept = kept[np.isfinite(price_s[kept])]
        if not len(kept):
            raise MemoryLimitError(f"inputs of {longest:.0f} tokens do not fit the draft node")
        ends = np.append(ends, np.full(len(kept), i))
        before = np.append(before, kept)
        drafted_s = np.append(drafted_s, drafts_s[kept])
        verified_s = np.append(verified_s, done_s[kept])
        read_s = np.append(read_s, reads_s[kept])
    # The first of the last ways is the best one.
    way = int((ends == len(inputs)).argmax())
    bounds = []
    while way >= 0:
        bounds.append(int(ends[way]))
        way = int(before[way])
    return tuple(reversed(bounds))


def _undominated(price_s: Floats, drafts_s: Floats) -> Ints:
    """Return the ways that no other one beats in both the target's and the draft's completion
    time, each with the time of reading; the best first."""
    order = np.lexsort((drafts_s, price_s))
    least_s = np.minimum.accumulate(drafts_s[order])
    is_less = np.append(True, least_s[1:] < least_s[:-1])
    kept: Ints = order[is_less]
    return kept


def filled_bounds(stages: Stages, inputs: Ints, may: Callable[[Ints], bool]) -> Bounds:
    """Return batches of as many tasks as memory holds and `may` permits."""
    bounds = [0]
    for last in range(1, len(inputs) + 1):
        batch = inputs[bounds[-1] : last]
        fits = len(batch) <= stages.most(float(batch.max()))
        if len(batch) > 1 and not (fits and may(batch)):
            bounds.append(last - 1)
    return (*bounds, len(inputs))


def serve(setting: Setting, pair: Pair, inputs: Ints, scheme: str) -> Served:
    """Run a scheme with its best speculation length, or the one that it prescribes.

    inputs: (K,) in the order of arrival. Raises KeyError for a scheme that is not in SCHEMES.
    """
    lengths = range(1, setting.max_length + 1)
    if scheme == "ad":
        lengths = range(1)
    if scheme == "fixed-length":
        lengths = range(setting.fixed_length, setting.fixed_length + 1)
    order = inputs if scheme == "static" else np.sort(inputs)
    has_pipeline = scheme != "no-pipeline"
    found = []
    for length in lengths:
        stages = stages_of(setting, pair, length)
        bounds = SCHEMES[scheme](stages, order)
        seconds = total_s(stages, order, bounds, has_pipeline=has_pipeline)
        found.append(Served(seconds, length, bounds))
    return min(found, key=lambda served: served.seconds)


def heuristic_bounds(stages: Stages, inputs: Ints) -> Bounds:
    """Return batches of similar inputs: none is longer than bucket_ratio times the shortest."""
    ratio = stages.setting.bucket_ratio
    return filled_bounds(stages, inputs, lambda batch: bool(batch[-1] <= ratio * batch[0]))


def static_bounds(stages: Stages, inputs: Ints) -> Bounds:
    """Return batches of static_size tasks in the given order, or of fewer if memory is full."""
    size = stages.setting.static_size
    return filled_bounds(stages, inputs, lambda batch: len(batch) <= size)


SCHEMES: dict[str, Callable[[Stages, Ints], Bounds]] = {
    "joint": program_bounds,
    "fixed-length": program_bounds,
    "no-pipeline": lambda stages, inputs: program_bounds(stages, inputs, has_pipeline=False),
    "no-batching": lambda _, inputs: tuple(range(len(inputs) + 1)),
    "max-batching": lambda stages, inputs: filled_bounds(stages, inputs, lambda _: True),
    "heuristic": heuristic_bounds,
    "static": static_bounds,
    "ad": lambda _, inputs: (0, len(inputs)),
}
