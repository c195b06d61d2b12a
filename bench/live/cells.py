"""Rows of the live suites as cells of a result. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bench.live import machine
from bench.live.edge_hub import Figures
from bench.live.edge_setting import Setting
from bench.live.scale import Carried
from bench.results.cells import ratio_value
from bench.results.making import BARE
from bench.results.schema import Cell, Value

MACHINE = "machine"
EDGE = "edge (emulated)"
SCALE = "scale (emulated passes)"
# Tokens/s of all streams: while all decode, and over a time in which streams end and begin.
_DECODE, _ALL = "decode tokens/s", "tokens/s"


def machine_cells(rows: Sequence[machine.Cell]) -> Iterator[Cell]:
    """Yield the figures of the mesh and of the bare loop, and their ratio."""
    for row in rows:
        place = f"{row.target}, draft {row.draft}, {_streams(row.num_streams)}"
        made = row.figures
        values = [
            Value(metric=_DECODE, unit="1/s", value=row.mesh_tokens_per_s),
            Value(metric="passes with guesses", unit="", value=made.guessing_share),
        ]
        if made.num_guesses:
            share = made.num_accepted / made.num_guesses
            values.append(Value(metric="accepted", unit="", value=share))
        bare = Value(metric=_DECODE, unit="1/s", value=row.bare_tokens_per_s)
        yield Cell(suite=MACHINE, place=place, system=BARE, values=(bare,))
        yield Cell(suite=MACHINE, place=place, system="airdraft", values=tuple(values))
        yield Cell(
            suite=MACHINE,
            place=place,
            system="airdraft",
            reference=BARE,
            ratios=(ratio_value(_DECODE, row.ratio),),
        )


def edge_cells(found: Mapping[Setting, Mapping[str, Figures]]) -> Iterator[Cell]:
    """Yield the figures of each mode, and ratios of auto to each other one, without intervals."""
    for setting, by_policy in found.items():
        place = f"{setting.place}, {_streams(setting.num_streams)}"
        for policy, figures in by_policy.items():
            yield Cell(
                suite=EDGE,
                place=place,
                system=policy,
                values=tuple(_edge_values(figures)),
                note=_wrong_texts(figures.num_wrong, figures.num_texts),
            )
        auto = by_policy.get("auto")
        for policy, figures in by_policy.items():
            if auto is None or policy == "auto" or figures.tokens_per_s <= 0:
                continue
            ratio = auto.tokens_per_s / figures.tokens_per_s
            yield Cell(
                suite=EDGE,
                place=place,
                system="auto",
                reference=policy,
                ratios=(Value(metric=_ALL, unit="x", value=ratio),),
            )


def _edge_values(figures: Figures) -> Iterator[Value]:
    yield Value(metric=_ALL, unit="1/s", value=figures.tokens_per_s)
    yield Value(metric="price seen to predicted", unit="", value=figures.promised)
    yield Value(metric="passes with guesses", unit="", value=figures.guessing_share)
    if figures.num_guesses:
        yield Value(metric="accepted", unit="", value=figures.acceptance)


def scale_cells(rows: Sequence[Carried], settings: str) -> Iterator[Cell]:
    """Yield the coordinator's figures by number of streams. settings: the nodes in words."""
    for row in rows:
        p50, p99, _ = row.delay_s
        yield Cell(
            suite=SCALE,
            place=f"{_streams(row.num_streams)}, {settings}",
            system="coordinator",
            values=(
                Value(metric=_ALL, unit="1/s", value=row.tokens_per_s),
                Value(metric="stream passes/s", unit="1/s", value=row.passes_per_s),
                Value(metric="Ping p50", unit="s", value=p50),
                Value(metric="Ping p99", unit="s", value=p99),
                Value(metric="share of its core", unit="", value=row.coordinator_busy),
            ),
            note=f"{row.num_wrong} wrong texts" if row.num_wrong else "",
        )


def _wrong_texts(num_wrong: int, num_texts: int) -> str:
    return f"{num_wrong} of {num_texts} texts wrong" if num_wrong else ""


def _streams(count: int) -> str:
    return f"{count} stream{'' if count == 1 else 's'}"
