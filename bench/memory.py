"""Resident memory of nodes, compared with their budgets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from bench.harness.processes import resident_bytes
from nodes.catalog import DEFAULT_TARGET, Catalog, default_cache_dir
from nodes.client.generation import GenerateOptions
from nodes.config.settings import EngineSettings, environment
from nodes.service.local import local_mesh

_MIB = 1 << 20
_TARGET_SLACK_BYTES = 150 * _MIB
_COORDINATOR_BYTES = 80 * _MIB
_CELLS = 8192
_OUTPUT_ROWS = 256


def run_memory() -> tuple[str, bool]:
    """Return a table of measured and allowed MiB, and whether all processes are within budget."""
    target, allowed = asyncio.run(_target())
    coordinator = _coordinator()
    rows = [("target", target, allowed), ("coordinator", coordinator, _COORDINATOR_BYTES)]
    table = ["| process | RSS MiB | allowed MiB |", "|---|---|---|"]
    table += [f"| {n} | {rss / _MIB:.0f} | {limit / _MIB:.0f} |" for n, rss, limit in rows]
    return "\n".join(table), all(rss <= limit for _, rss, limit in rows)


async def _target() -> tuple[int, int]:
    path = Catalog(default_cache_dir(environment())).ensure(DEFAULT_TARGET)
    async with local_mesh(EngineSettings(model=str(path), cells=_CELLS, threads=1), None) as (
        mesh,
        client,
    ):

        async def load() -> None:
            options = GenerateOptions(max_tokens=32, gamma=0, num_choices=16, ignore_eog=True)
            async for _ in client.generate("Tell a story about the sea. " * 20, options):
                pass

        await mesh.beside(load())
        return resident_bytes(mesh.pid("target")), _allowed(path)


def _allowed(path: Path) -> int:
    """Return the budget in bytes: model file, its repacked copy, KV cache, output rows, 150 MiB."""
    # SmolLM2-135M: 30 layers of 3 KV heads of 64, keys and values in F16.
    kv_cache = _CELLS * 30 * 2 * 3 * 64 * 2
    outputs = _OUTPUT_ROWS * 49_152 * 4
    return 2 * path.stat().st_size + kv_cache + outputs + _TARGET_SLACK_BYTES


def _coordinator() -> int:
    process = subprocess.Popen(
        [sys.executable, "-m", "nodes.cli", "coordinator", "--listen", "tcp://127.0.0.1:0"],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        return resident_bytes(process.pid)
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()
