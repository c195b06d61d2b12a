"""The mesh's cost: plain decoding through coordinator and target beside the bare loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from bench.bare import SKIPPED_STEPS, BareLoop
from bench.live.pairs import paired_ratio
from bench.results.cells import of_turns, ratio_value
from bench.results.making import BARE
from bench.results.schema import Cell
from nodes.catalog import DEFAULT_TARGET, Catalog, default_cache_dir
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions
from nodes.config.settings import EngineSettings, environment
from nodes.messages import TokensNotice
from nodes.service.local import local_mesh

_RATE = "decode tokens/s"


@dataclass(frozen=True, slots=True)
class Row:
    """Runs with one number of streams. pairs: tokens/s of the bare loop and of the mesh, by run."""

    num_streams: int
    pairs: tuple[tuple[float, float], ...]


def run_cost(counts: Sequence[int], *, repeats: int, max_tokens: int) -> list[Row]:
    """Measure both sides in interleaved runs A B A B; return a row for each number of streams."""
    return asyncio.run(_run(counts, repeats, max_tokens))


async def _run(counts: Sequence[int], repeats: int, max_tokens: int) -> list[Row]:
    path = Catalog(default_cache_dir(environment())).ensure(DEFAULT_TARGET)
    settings = EngineSettings(model=str(path), max_streams=16, threads=1)
    rows = []
    for count in counts:
        pairs: list[tuple[float, float]] = []
        bare = BareLoop(path)
        try:
            async with local_mesh(settings, None) as (mesh, client):
                await mesh.beside(mesh_tokens_per_s(client, count, 24))
                await asyncio.to_thread(bare.measure, count, 24)
                for _ in range(repeats):
                    bare_rate = await asyncio.to_thread(bare.measure, count, max_tokens)
                    rate = await mesh.beside(mesh_tokens_per_s(client, count, max_tokens))
                    pairs.append((bare_rate, rate))
        finally:
            bare.close()
        rows.append(Row(count, tuple(pairs)))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table of median rates, and of median and range of the paired ratios."""
    lines = ["| streams | bare tokens/s | mesh tokens/s | mesh / bare (range) |"]
    lines.append("|---|---|---|---|")
    for row in rows:
        ratios = sorted(mesh_rate / bare_rate for bare_rate, mesh_rate in row.pairs)
        lines.append(
            f"| {row.num_streams} | {median(b for b, _ in row.pairs):.1f} "
            f"| {median(m for _, m in row.pairs):.1f} "
            f"| {median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}) |"
        )
    return "\n".join(lines)


def cells(rows: Sequence[Row]) -> Iterator[Cell]:
    """Yield the rates of both sides, and the ratio of the mesh to the bare loop."""
    for row in rows:
        place = f"{DEFAULT_TARGET}, {row.num_streams} stream{'s' if row.num_streams > 1 else ''}"
        for k, system in enumerate((BARE, "airdraft, plain")):
            value = of_turns(_RATE, "1/s", [pair[k] for pair in row.pairs])
            yield Cell(suite="cost", place=place, system=system, values=(value,))
        yield Cell(
            suite="cost",
            place=place,
            system="airdraft, plain",
            reference=BARE,
            ratios=(ratio_value(_RATE, paired_ratio(row.pairs)),),
        )


async def mesh_tokens_per_s(client: Client, num_streams: int, max_tokens: int) -> float:
    """Return tokens/s while all streams decode.

    Counting begins when every stream has SKIPPED_STEPS tokens and ends when the first one ends.
    """
    counts = [0] * num_streams
    began = ended = 0.0
    at_begin = at_end = 0

    async def one(index: int) -> None:
        nonlocal began, ended, at_begin, at_end
        options = GenerateOptions(max_tokens=max_tokens, gamma=0, ignore_eog=True)
        async for event in client.generate((1000 + index,), options):
            if not isinstance(event, TokensNotice):
                continue
            counts[index] += len(event.token_ids)
            now = time.perf_counter()
            if not began and min(counts) >= SKIPPED_STEPS:
                began, at_begin = now, sum(counts)
            if began and not ended and counts[index] == max_tokens:
                ended, at_end = now, sum(counts)

    await asyncio.gather(*(one(index) for index in range(num_streams)))
    return (at_end - at_begin) / (ended - began)
