"""The paper's dynamic program for batches, an exact one beside it, and the schemes it is compared
with. All cut tasks that are sorted by their inputs, but for static batching."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.paper.printed.model import Pair, Stages, scalar, stages_of, total_s
from bench.paper.printed.setting import Setting
from policies.problem import Ints

Bounds = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Served:
    """Seconds without the upload, the speculation length and the cuts between batches."""

    seconds: float
    length: int
    bounds: Bounds


class MemoryLimitError(ValueError):
    """A task alone is more than the draft node holds."""


def paper_bounds(stages: Stages, inputs: Ints, *, has_pipeline: bool = True) -> Bounds:
    """Batches by the recursion: for the first i tasks the best completion, over all last batches
    that fit into memory. Of several ways to serve the first j tasks it goes on with the one that
    completes first, as the paper does. O(K^2). inputs: (K,) sorted."""
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
    """One way to serve the first tasks: when draft and target are through with a stage of them,
    what reading takes, and its cuts."""

    drafted_s: float
    verified_s: float
    read_s: float
    bounds: Bounds


def exact_bounds(stages: Stages, inputs: Ints) -> Bounds:
    """The best batches in this order: all ways are kept that could still come first."""
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
    """Those that no other beats both by when the target is through and by when the draft is, with
    what reading takes counted into both."""
    kept: list[_Label] = []
    least = np.inf
    for label in sorted(labels, key=lambda a: (a.read_s + num * a.verified_s, a.drafted_s)):
        drafts_s = label.read_s + num * label.drafted_s
        if drafts_s < least:
            kept.append(label)
            least = drafts_s
    return kept


def every_bounds(num: int) -> list[Bounds]:
    """All ways to cut so many tasks."""
    sizes = range(num)
    cuts = (c for size in sizes for c in itertools.combinations(range(1, num), size))
    return [(0, *cut, num) for cut in cuts]


def max_bounds(stages: Stages, inputs: Ints) -> Bounds:
    """As many a batch as memory holds."""
    return _filled(inputs, lambda first, last: bool(_fits(stages, inputs, first, last)))


def bucket_bounds(stages: Stages, inputs: Ints, ratio: float) -> Bounds:
    """Inputs of similar length: none is more than `ratio` times the shortest of its batch."""

    def may(first: int, last: int) -> bool:
        is_similar = inputs[last - 1] <= ratio * inputs[first]
        return bool(is_similar and _fits(stages, inputs, first, last))

    return _filled(inputs, may)


def static_bounds(stages: Stages, inputs: Ints, size: int) -> Bounds:
    """So many a batch, or fewer where memory holds no more; inputs as they come."""

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
    """The best speculation length of a scheme, or the one that it prescribes.

    inputs: (K,) as tasks come. Raises KeyError for a scheme that is not in SCHEMES.
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
# Those whose batches the program could have chosen itself.
INSIDE = ("fixed-length", "no-batching", "max-batching", "heuristic")
