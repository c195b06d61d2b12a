"""The emulated edge cell: a strong target and four small draft nodes on one narrow radio cell.

Models answer from a recording of a real pair, with the times of other devices
(`bench/emulate/replay.py`), and packets pass through an emulated medium (`bench/emulate/`).
Coordinator, nodes, keys, messages and TCP are real.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.emulate.open import Means, open_cell
from bench.emulate.recording import read_recording
from bench.harness.fleet import COORDINATOR, Fleet, FleetError, Setup, fleet
from bench.harness.places import HUB
from bench.live.edge_hub import Figures, Task
from bench.live.edge_report import row_of, together
from bench.live.edge_setting import (
    AIR,
    ALPHAS,
    BENCH,
    DRAFT,
    FRAME_S,
    NUM_DRAFTS,
    RECORDING,
    TARGET,
    TARGET_STATION,
    Setting,
)

_HUB_LIMIT_S = 60.0
_TARGET, _HUB = "target-0", "clients"


async def run_setting(
    setting: Setting,
    policies: Sequence[str],
    means: Means,
    report: Callable[[str], None],
    num_turns: int = 1,
) -> dict[str, Figures]:
    """Run all policies in one cell, one after the other; nodes stay, each has its own coordinator.

    num_turns: turns of each policy. The order alternates between the given one and its reverse,
    and the last turn has the given one.
    """
    found: dict[str, Figures] = {}
    turns: dict[str, list[Figures]] = {policy: [] for policy in policies}
    guesses, low, high = ALPHAS[setting.alpha]
    with tempfile.TemporaryDirectory(prefix="airdraft-edge-") as folder:
        setup = Setup(
            num_targets=1,
            num_drafts=NUM_DRAFTS,
            target_model=_emulated(Path(folder) / "target.toml", "", *TARGET),
            draft_model=_emulated(Path(folder) / "draft.toml", guesses, *DRAFT),
            max_streams=32,
            environ={"AIRDRAFT_JOIN_TIMEOUT_S": "60"},
        )
        async with (
            open_cell(setting.cell(), means=means) as (live, kind),
            fleet(setup, places=live, starts=()) as mesh,
        ):
            report(f"{setting.place}: {kind}")
            await _start_nodes(mesh, setting)
            recording = read_recording(RECORDING)
            wanted = recording.texts_with(guesses, low, high)
            texts = [k for k, text in enumerate(recording.texts) if text in wanted]
            for turn in range(num_turns):
                for policy in reversed(turns) if (num_turns - 1 - turn) % 2 else turns:
                    turns[policy].append(await _run_policy(mesh, texts, setting, policy))
                    if turn + 1 == num_turns:
                        found[policy] = together(turns[policy])
                        report(row_of(setting, policy, found))
    return {policy: found[policy] for policy in policies}


def _emulated(path: Path, draft: str, device: str, model: str) -> str:
    """Describe an emulated device in a file, and return it as a model. draft: "" for a target."""
    profiles = BENCH / "profiles"
    lines = [
        f'recording = "{RECORDING}"',
        f'models = "{profiles / "models.toml"}"',
        *([f'draft = "{draft}"'] if draft else []),
        "[costs]",
        f'device = "{profiles / device}"',
        f'model = "{model}"',
        "used_cells = 2000",
    ]
    path.write_text("\n".join(lines) + "\n")
    return f"replay:{path}"


async def _start_nodes(mesh: Fleet, setting: Setting) -> None:
    """Start the target, at the hub or a station, and draft nodes at the other stations."""
    stations = setting.cell().stations
    names = [f"draft-{number}" for number in range(NUM_DRAFTS)]
    if setting.is_target_on_air:
        names.append(_TARGET)
        assert stations[-1].name == TARGET_STATION
    else:
        await mesh.start(_TARGET)
    for name, station in zip(names, stations, strict=True):
        config = mesh.folder / f"{name}.toml"
        config.write_text(
            f'[link]\nair = "{AIR}"\nrate_kbps = {station.rate_bps / 1e3}\n'
            f"frame_ms = {FRAME_S * 1e3}\n"
        )
        await mesh.start(name, "--config", str(config), place=station.name)


async def _run_policy(mesh: Fleet, texts: list[int], setting: Setting, policy: str) -> Figures:
    task = Task(
        policy=policy,
        coordinator=str(mesh.keys(COORDINATOR)),
        texts=texts,
        num_streams=setting.num_streams,
        num_nodes=1 + NUM_DRAFTS,
        warm_up_s=setting.warm_up_s,
        seconds=setting.seconds,
    )
    module = "bench.live.edge_hub"
    process = await mesh.start_module(_HUB, HUB, module, json.dumps(asdict(task)))
    mesh.expect_end(_HUB)
    try:
        async with asyncio.timeout(_HUB_LIMIT_S + setting.warm_up_s + setting.seconds):
            await process.ended.wait()
    finally:
        await process.kill()
    if process.code:
        raise FleetError(f"the hub ended with code {process.code}: {mesh.last_words(_HUB)}")
    return Figures(**json.loads(mesh.log(_HUB).read_text().splitlines()[-1]))
