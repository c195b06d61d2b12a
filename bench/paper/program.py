"""The paper's dynamic program for batches, an exact program, and the schemes to compare with.

All of them cut tasks sorted by their inputs into batches, except static batching."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.paper.model import Pair, Stages, scalar, stages_of, total_s
from bench.paper.setting import Setting
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


def paper_bounds(stages: Stages, inputs: Ints, *, has_pipeline: bool = True) -> Bounds:
    """Return batches by the recursion: the best completion of the first i tasks over all last
    batches that fit into memory. Of several ways to serve the first j tasks only the one that
    completes first is continued, as in the paper. O(K^2). inputs: (K,) sorted."""
    n = len(inputs)
    best = np.full(n + 1, np.inf)
    drafted_s, verified_s, read_s = np.zeros(n + 1), np.zeros(n + 1), np.zeros(n + 1)
    before = np.zeros(n + 1, dtype=np.int64)
    best[0] = 0.0
    for i in range(1, n + 1):
        first = np.arange(i)
        longest, size = scalar(inputs[i - 1]), (i - first).astype(np.float64)
        starts_s = drafted_s[:i] if has_pipeline else verified_s[:i]
        drafts_s = starts_s + stages.draft_s(longest, size)
        done_s = np.maximum(verified_s[:i], drafts_s) + stages.verify_s(longest, size)
        reads_s = read_s[:i] + stages.read_s(longest, size)
        price_s = np.where(
            stages.fits(longest, size) & np.isfinite(best[:i]),
            reads_s + stages.num * done_s,
            np.inf,
        )
        j = int(price_s.argmin())
        best[i], before[i] = price_s[j], j
        drafted_s[i], verified_s[i], read_s[i] = drafts_s[j], done_s[j], reads_s[j]
    if not np.isfinite(best[n]):
        raise MemoryLimitError(f"inputs of {inputs[-1]} tokens do not fit the draft node")
    bounds = [n]
    while bounds[-1]:
        bounds.append(int(before[bounds[-1]]))
    return tuple(reversed(bounds))


@dataclass(frozen=True, slots=True)
class _Label:
    """One way to serve the first tasks. drafted_s, verified_s: times at which draft and target
    complete a stage of them. read_s: seconds of reading. bounds: its cuts."""

    drafted_s: float
    verified_s: float
    read_s: float
    bounds: Bounds


def exact_bounds(stages: Stages, inputs: Ints) -> Bounds:
    """Return the best batches in this order; all ways that could still become best are kept."""
    labels: list[list[_Label]] = [[_Label(0.0, 0.0, 0.0, (0,))]]
    for i in range(1, len(inputs) + 1):
        found = []
        longest = scalar(inputs[i - 1])
        for j in range(i):
            size = scalar(i - j)
            if not stages.fits(longest, size):
                continue
            draft_s, verify_s = stages.draft_s(longest, size), stages.verify_s(longest, size)
            read_s = stages.read_s(longest, size)
            for label in labels[j]:
                drafted_s = float(label.drafted_s + draft_s)
                verified_s = max(label.verified_s, drafted_s) + float(verify_s)
                bounds = (*label.bounds, i)
                found.append(_Label(drafted_s, verified_s, label.read_s + float(read_s), bounds))
        labels.append(_undominated(found, stages.num))
    if not labels[-1]:
        raise MemoryLimitError(f"inputs of {inputs[-1]} tokens do not fit the draft node")
    return min(labels[-1], key=lambda a: a.read_s + stages.num * a.verified_s).bounds


def _undominated(labels: Sequence[_Label], num: int) -> list[_Label]:
    """Return the labels that no other one beats in both the target's and the draft's completion
    time, each with the time of reading."""
    kept: list[_Label] = []
    least = np.inf
    for label in sorted(labels, key=lambda a: (a.read_s + num * a.verified_s, a.drafted_s)):
        drafts_s = label.read_s + num * label.drafted_s
        if drafts_s < least:
            kept.append(label)
            least = drafts_s
    return kept


def max_bounds(stages: Stages, inputs: Ints) -> Bounds:
    """Return batches as large as memory permits."""
    return _filled(inputs, lambda first, last: bool(_fits(stages, inputs, first, last)))


def bucket_bounds(stages: Stages, inputs: Ints, ratio: float) -> Bounds:
    """Return batches of similar inputs: none is longer than `ratio` times its batch's shortest."""

    def may(first: int, last: int) -> bool:
        is_similar = inputs[last - 1] <= ratio * inputs[first]
        return bool(is_similar and _fits(stages, inputs, first, last))

    return _filled(inputs, may)


def static_bounds(stages: Stages, inputs: Ints, size: int) -> Bounds:
    """Return batches of `size` tasks in the given order, or of fewer if memory holds no more."""

    def may(first: int, last: int) -> bool:
        return last - first <= size and bool(_fits(stages, inputs, first, last))

    return _filled(inputs, may)


def single_bounds(inputs: Ints) -> Bounds:
    return tuple(range(len(inputs) + 1))


def _fits(stages: Stages, inputs: Ints, first: int, last: int) -> np.ndarray:
    return stages.fits(scalar(inputs[first:last].max()), scalar(last - first))


def _filled(inputs: Ints, may: Callable[[int, int], bool]) -> Bounds:
    bounds = [0]
    for last in range(1, len(inputs) + 1):
        if last - bounds[-1] > 1 and not may(bounds[-1], last):
            bounds.append(last - 1)
    return (*bounds, len(inputs))


def serve(setting: Setting, pair: Pair, inputs: Ints, scheme: str) -> Served:
    """Run a scheme with its best speculation length, or the one that it prescribes.

    inputs: (K,) in the order of arrival. Raises KeyError for a scheme that is not in SCHEMES.
    """
    if scheme == "ad":
        bounds: Bounds = (0, len(inputs))
        return Served(total_s(stages_of(setting, pair, 0), inputs, bounds), 0, bounds)
    lengths = range(1, setting.tasks.max_length + 1)
    if scheme == "fixed-length":
        lengths = range(setting.schemes.fixed_length, setting.schemes.fixed_length + 1)
    order = inputs if scheme == "static" else np.sort(inputs)
    has_pipeline = scheme != "no-pipeline"
    found = []
    for length in lengths:
        stages = stages_of(setting, pair, length)
        bounds = SCHEMES[scheme](stages, order)
        seconds = total_s(stages, order, bounds, has_pipeline=has_pipeline)
        found.append(Served(seconds, length, bounds))
    return min(found, key=lambda served: served.seconds)


SCHEMES: dict[str, Callable[[Stages, Ints], Bounds]] = {
    "joint": paper_bounds,
    "fixed-length": paper_bounds,
    "no-pipeline": lambda stages, inputs: paper_bounds(stages, inputs, has_pipeline=False),
    "no-batching": lambda _, inputs: single_bounds(inputs),
    "max-batching": max_bounds,
    "heuristic": lambda s, inputs: bucket_bounds(s, inputs, s.setting.schemes.bucket_ratio),
    "static": lambda s, inputs: static_bounds(s, inputs, s.setting.schemes.static_size),
    "ad": lambda _, inputs: (0, len(inputs)),
}
# Schemes whose batches the program could have chosen, too.
INSIDE = ("fixed-length", "no-batching", "max-batching", "heuristic")
