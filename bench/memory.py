"""Resident memory of nodes, compared with their budgets."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from bench.harness.processes import ROOT, resident_bytes
from bench.harness.report import Findings, conclude, head, row
from bench.options import model_file
from nodes.catalog import DEFAULT_TARGET
from nodes.client.generation import GenerateOptions
from nodes.config.settings import EngineSettings
from nodes.service.local import local_mesh

_MIB = 1 << 20
_TARGET_SLACK_BYTES = 150 * _MIB
_COORDINATOR_BYTES = 80 * _MIB
_CELLS = 8192
_OUTPUT_ROWS = 256


@click.command("memory")
def memory_command() -> None:
    """Compare the memory of nodes with their budgets.

    The resident memory of a target and a coordinator is measured. A process beyond its budget is a
    fault.

    \b
    Example:
      python -m bench memory
    """
    found = Findings([head("process", "RSS MiB", "allowed MiB")])
    for name, rss, limit in (
        ("target", *asyncio.run(_target())),
        ("coordinator", _coordinator(), _COORDINATOR_BYTES),
    ):
        found.lines.append(row(name, f"{rss / _MIB:.0f}", f"{limit / _MIB:.0f}"))
        if rss > limit:
            found.faults.append(f"{name}: more memory than allowed")
    conclude(found)


async def _target() -> tuple[int, int]:
    path = model_file(DEFAULT_TARGET)
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
    command = [sys.executable, "-m", "nodes.cli", "coordinator", "--listen", "tcp://127.0.0.1:0"]
    with tempfile.TemporaryDirectory(prefix="airdraft-bench-") as folder:
        environ = {**os.environ, "AIRDRAFT_KEYS": folder}
        with subprocess.Popen(command, env=environ, cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            rss = resident_bytes(process.pid)
            process.terminate()
            return rss
