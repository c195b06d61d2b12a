"""Times of models' work, opened as nodes open them, and a comparison with the bare loop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.bare import BareLoop
from bench.engine.timing import (
    STEP_SIZES,
    Timed,
    decode_tokens_per_s,
    measure,
    prompt_s,
)
from bench.live.pairs import paired_ratio
from bench.results.cells import of_turns, ratio_value
from bench.results.making import BARE
from bench.results.schema import Cell, Value
from nodes.engine.llama import LlamaConfig, Profile
from nodes.engine.load import open_model
from nodes.engine.protocol import Model

_SUITE = "engine"
_BARE_TOKENS = 48
Pairs = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of a model. beside_bare: tokens/s of the bare loop and of the engine in turns, by
    kind of work; empty in profile fast, because the bare loop runs as in profile exact.
    """

    model: str
    profile: Profile
    used_cells: int
    timed: tuple[Timed, ...]
    beside_bare: dict[str, Pairs]

    @property
    def title(self) -> str:
        return f"{self.model}, {self.profile}"

    @property
    def step_s(self) -> float:
        """Median seconds of a step of all sequences, with which other times are compared."""
        what = f"step of {STEP_SIZES[-1]} sequences"
        return next(median(timed.seconds) for timed in self.timed if timed.what == what)


def run_engine(
    name: str,
    path: Path,
    profile: Profile,
    *,
    used_cells: int,
    prompt_tokens: int,
    repeats: int,
    num_threads: int,
    calibrations: Path | None,
) -> Measured:
    """Measure a model. calibrations: folder of the nodes' calibrations; a missing one is added."""
    config = LlamaConfig(path=path, profile=profile, num_threads=num_threads)
    opened = open_model(config, calibrations)
    try:
        timed = measure(opened.model, opened.costs, used_cells, prompt_tokens, repeats)
        beside = {}
        if profile == "exact":
            with contextlib.closing(BareLoop(path, num_threads=num_threads)) as bare:
                beside = _beside_bare(opened.model, bare, prompt_tokens, repeats)
    finally:
        opened.model.close()
    return Measured(name, profile, used_cells, tuple(timed), beside)


def _beside_bare(
    model: Model, bare: BareLoop, prompt_tokens: int, repeats: int
) -> dict[str, Pairs]:
    """Measure bare loop and engine on the same weights and settings, A B then B A."""
    prompt = range(1000, 1000 + prompt_tokens)
    works = {
        "one stream": (
            lambda: bare.measure(1, _BARE_TOKENS),
            lambda: decode_tokens_per_s(model, _BARE_TOKENS),
        ),
        f"prompt of {prompt_tokens} tokens": (
            lambda: prompt_tokens / bare.prefill_s(prompt_tokens),
            lambda: prompt_tokens / prompt_s(model, prompt),
        ),
    }
    found: dict[str, Pairs] = {}
    for what, sides in works.items():
        pairs = []
        for turn in range(repeats + 1):
            rates = {side: sides[side]() for side in ((0, 1) if turn % 2 else (1, 0))}
            pairs.append((rates[0], rates[1]))
        # The first pair warms up.
        found[what] = tuple(pairs[1:])
    return found


def table(found: Sequence[Measured]) -> str:
    """Return tables of median times with ranges, and of ratios to the bare loop with intervals."""
    lines = [
        "| model | used cells | what | ms (range) | calibrated ms | tokens/s | of a step of "
        f"{STEP_SIZES[-1]} |",
        "|---|---|---|---|---|---|---|",
    ]
    for model in found:
        for timed in model.timed:
            ms = sorted(seconds * 1e3 for seconds in timed.seconds)
            known = f"{timed.calibrated_s * 1e3:.2f}" if timed.calibrated_s else "-"
            lines.append(
                f"| {model.title} | {model.used_cells} | {timed.what} "
                f"| {median(ms):.2f} ({ms[0]:.2f} to {ms[-1]:.2f}) | {known} "
                f"| {f'{median(timed.tokens_per_s):.0f}' if timed.is_pass else '-'} "
                f"| {median(timed.seconds) / model.step_s:.3f} |"
            )
    lines += ["", "| model | what | bare tokens/s | engine tokens/s | engine / bare (95 %) |"]
    lines.append("|---|---|---|---|---|")
    for model in found:
        for what, pairs in model.beside_bare.items():
            bare, own = (median(rates) for rates in zip(*pairs, strict=True))
            lines.append(
                f"| {model.title} | {what} | {bare:.1f} | {own:.1f} | {paired_ratio(pairs)} |"
            )
    return "\n".join(lines)


def cells(found: Sequence[Measured]) -> Iterator[Cell]:
    """Yield a cell for each model and kind of work, and for each ratio to the bare loop."""
    for model in found:
        for timed in model.timed:
            values = [of_turns("time", "s", timed.seconds)]
            if timed.is_pass:
                values.insert(0, of_turns("tokens/s", "1/s", timed.tokens_per_s))
            if timed.calibrated_s:
                values.append(Value(metric="calibrated", unit="s", value=timed.calibrated_s))
            share = median(timed.seconds) / model.step_s
            values.append(Value(metric=f"of a step of {STEP_SIZES[-1]}", unit="", value=share))
            cells_there = f", {model.used_cells} used cells" if timed.calibrated_s else ""
            yield Cell(
                suite=_SUITE,
                place=timed.what + cells_there,
                system=model.title,
                values=tuple(values),
            )
        for what, pairs in model.beside_bare.items():
            ratio = ratio_value("tokens/s", paired_ratio(pairs))
            yield Cell(
                suite=_SUITE, place=what, system=model.title, reference=BARE, ratios=(ratio,)
            )
