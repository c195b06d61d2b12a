"""The places on the axes of the sweeps at which the paper's two figures are reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bench.paper.sweeps import LATENCY, UPLOAD, Result, Sweep
from bench.paper.tables import crossings, metrics_in, regime_of

# arXiv 2510.11331: "up to" these, against uniform allocation and against maximal batching.
UNIFORM_LEVEL = 0.449
BATCHING_LEVEL = 0.214

# If there are more places, the report leaves them to the CSV files.
_MAX_PLACES = 4

Swept = Sequence[tuple[Sweep, Sequence[Result]]]


def percent(share: float) -> str:
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return f"{round(100 * share, 1) + 0.0:.1f} %"


def levels(swept: Swept) -> Iterator[str]:
    """Yield lines of Markdown: range, points that reach each figure, and where it is passed."""
    yield "## Where the paper's figures lie"
    yield ""
    yield from _plainly(swept)
    yield ""
    yield f"{percent(UNIFORM_LEVEL)} against uniform allocation (`joint` below `uniform-air`):"
    yield ""
    yield from _lines(swept, "joint", "uniform-air", UNIFORM_LEVEL, (LATENCY, UPLOAD))
    yield ""
    yield (
        "The closed-form bands alone (`joint-step`): they let all prompts finish at one moment, "
        "which is best for the makespan of the upload, and not for means, nor for an upload that "
        "decoding could overlap with:"
    )
    yield ""
    yield from _lines(swept, "joint-step", "uniform-air", UNIFORM_LEVEL, (LATENCY, UPLOAD))
    yield ""
    yield (
        f"{percent(BATCHING_LEVEL)} of dynamic against maximal batching. Batching alone is "
        "`joint-step`, as it shares the band like `max-batch`, which has the best gamma for all, "
        "and `fixed-gamma`, a maximal batch whose gamma is not optimised:"
    )
    yield ""
    for scheme in ("max-batch", "fixed-gamma"):
        yield from _lines(swept, "joint-step", scheme, BATCHING_LEVEL, (LATENCY,))
    yield from _lines(swept, "joint", "max-batch", BATCHING_LEVEL, (LATENCY,))


def _plainly(swept: Swept) -> Iterator[str]:
    """Yield whether the figures are reached with the scenario's own payload, on any axis."""
    for scheme, level in (("uniform-air", UNIFORM_LEVEL), ("max-batch", BATCHING_LEVEL)):
        cuts = [
            float(one.reductions(LATENCY, metric, scheme).mean())
            for sweep, results in swept
            if "payload_bytes" not in sweep.axes
            for one in results
            for metric in metrics_in(results)
            if (LATENCY, metric, scheme) in one.values
        ]
        if cuts:
            verdict = "is reached" if max(cuts) >= level else "is not reached"
            yield (
                f"- On all axes but the payload, `joint` is at most {percent(max(cuts))} below "
                f"`{scheme}` end to end: {percent(level)} {verdict} with prompts of that size."
            )


def _lines(
    swept: Swept, ours: str, theirs: str, level: float, scopes: Sequence[str]
) -> Iterator[str]:
    for scope in scopes:
        for metric in metrics_in(swept[0][1]):
            if any((scope, metric, name) not in swept[0][1][0].values for name in (ours, theirs)):
                continue
            text = _reached(swept, scope, metric, ours, theirs, level)
            yield f"- {ours} below {theirs}, {metric}, {scope}: {text}."


def _reached(swept: Swept, scope: str, metric: str, ours: str, theirs: str, level: float) -> str:
    places: list[str] = []
    every: list[tuple[float, str]] = []
    for sweep, results in swept:
        for rest in dict.fromkeys(one.point.labels[1:] for one in results):
            row = [one for one in results if one.point.labels[1:] == rest]
            means = [float(one.reductions(scope, metric, theirs, ours).mean()) for one in row]
            named = [regime_of(sweep, one.point.labels) for one in row]
            every += zip(means, named, strict=True)
            places += _places(sweep, row, named, means, level)
    (least, low), (most, high) = min(every), max(every)
    count = sum(mean >= level for mean, _ in every)
    text = f"from {percent(least)} ({low}) to {percent(most)} ({high})"
    text += f"; {count} of {len(every)} points reach it"
    if len(places) > _MAX_PLACES:
        return text
    return "; ".join((text, *places))


def _places(
    sweep: Sweep, row: Sequence[Result], named: Sequence[str], means: Sequence[float], level: float
) -> Iterator[str]:
    """Yield where a row of points passes the level, or the points that reach it on named axes."""
    if min(means) >= level or max(means) < level:
        return
    labels = [one.point.labels[0] for one in row]
    numbers = [label for label in labels if not isinstance(label, str)]
    if len(numbers) == len(labels) and min(numbers) > 0:
        rest = row[0].point.labels[1:]
        for place in crossings(numbers, means, level):
            yield f"passed at {regime_of(sweep, (float(f'{place:.2g}'), *rest))}"
    else:
        reached = np.array(named)[np.array(means) >= level]
        yield f"reached at {', '.join(reached)}"
