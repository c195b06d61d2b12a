"""`python -m bench memory`: resident memory of nodes, compared with their budgets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from bench.harness.fleet import COORDINATOR, Setup, fleet
from bench.harness.processes import resident_bytes
from bench.harness.report import Findings, conclude, head, row
from bench.options import model_file
from nodes.catalog import DEFAULT_TARGET
from nodes.client.generation import GenerateOptions

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
    path = model_file(DEFAULT_TARGET)
    allowed = {COORDINATOR: _COORDINATOR_BYTES, "target-0": _target_bytes(path)}
    found = Findings([head("process", "RSS MiB", "allowed MiB")])
    for name, rss in asyncio.run(_resident(path)).items():
        found.lines.append(row(name, f"{rss / _MIB:.0f}", f"{allowed[name] / _MIB:.0f}"))
        if rss > allowed[name]:
            found.faults.append(f"{name}: more memory than allowed")
    conclude(found)


async def _resident(path: Path) -> dict[str, int]:
    """Return what the processes of a mesh hold after some texts."""
    options = GenerateOptions(max_tokens=32, gamma=0, num_choices=16, ignore_eog=True)
    setup = Setup(
        num_targets=1,
        num_drafts=0,
        target_model=str(path),
        cells=_CELLS,
        environ={"AIRDRAFT_ENGINE__THREADS": "1"},
        fresh=True,
    )
    async with fleet(setup) as mesh, mesh.clients(1) as (client,):
        await mesh.wait_for(client)
        async for _ in client.generate("Tell a story about the sea. " * 20, options):
            pass
        return {name: resident_bytes(mesh.process(name).pid) for name in mesh.roles}


def _target_bytes(path: Path) -> int:
    """Return the budget: model file, its repacked copy, KV cache, output rows, 150 MiB."""
    # SmolLM2-135M: 30 layers of 3 KV heads of 64, keys and values in F16.
    kv_cache = _CELLS * 30 * 2 * 3 * 64 * 2
    outputs = _OUTPUT_ROWS * 49_152 * 4
    return 2 * path.stat().st_size + kv_cache + outputs + _TARGET_SLACK_BYTES
