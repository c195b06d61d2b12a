"""The emulated edge cell: a strong target and four small draft nodes on one narrow radio cell.

Models answer from a recording of a real pair, with the times of other devices
(`nodes/engine/replay.py`), and packets pass through an emulated medium (`bench/emulate/`).
Coordinator, nodes, keys, messages and TCP are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.emulate.cell import Station
from bench.emulate.open import LiveCell, Means, open_cell
from bench.emulate.tun import HUB
from bench.live.edge_hub import Figures, Task
from bench.live.edge_report import row
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
from bench.live.turns import together
from mesh.authorized import Entry
from mesh.keys import KnownCoordinator
from nodes.engine.recording import read_recording
from nodes.keys.keyring import Keyring
from nodes.messages.access import ROLES

PORT = 7411
_HUB_LIMIT_S = 60.0


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
    with tempfile.TemporaryDirectory(prefix="airdraft-edge-") as folder:
        async with open_cell(setting.cell(), means=means) as (live, kind):
            report(f"{setting.place}: {kind}")
            made = _Files(Path(folder), setting, live)
            async with _nodes(live, made, setting):
                for turn in range(num_turns):
                    for policy in reversed(turns) if (num_turns - 1 - turn) % 2 else turns:
                        turns[policy].append(await _run_policy(live, made, setting, policy))
                        if turn + 1 == num_turns:
                            found[policy] = together(turns[policy])
                            report(row(setting, policy, found))
    return {policy: found[policy] for policy in policies}


class _Files:
    """Keys and settings files of all machines of a cell."""

    def __init__(self, folder: Path, setting: Setting, live: LiveCell) -> None:
        self._folder, self._live = folder, live
        guesses, low, high = ALPHAS[setting.alpha]
        recording = read_recording(RECORDING)
        wanted = recording.texts_with(guesses, low, high)
        self.texts = [k for k, text in enumerate(recording.texts) if text in wanted]
        self.endpoint = f"tcp://{live.hub_host}:{PORT}"
        self.hub = Keyring(folder / "hub")
        own = self.hub.make_own()
        self._server = self.hub.make_coordinator_pair().public
        self.hub.authorized().add(Entry(own.public, "hub", ROLES))
        self.target = self._emulated("target", "", *TARGET)
        self.draft = self._emulated("draft", guesses, *DRAFT)

    def _emulated(self, name: str, draft: str, device: str, model: str) -> Path:
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
        path = self._folder / f"{name}.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    async def station(self, station: Station) -> list[str]:
        """Authorize the node at a station, write its settings, and return its role and options."""
        role = "target" if station.name == TARGET_STATION else "draft"
        ring = Keyring(self._folder / station.name)
        self.hub.authorized().add(Entry(ring.make_own().public, station.name, frozenset({role})))
        host, port = await self._live.dial(station.name, PORT)
        endpoint = f"tcp://{host}:{port}"
        ring.keep_coordinator(KnownCoordinator(endpoint, self._server))
        config = self._folder / f"{station.name}.toml"
        config.write_text(
            f'name = "{station.name}"\n[link]\nair = "{AIR}"\n'
            f"rate_kbps = {station.rate_bps / 1e3}\nframe_ms = {FRAME_S * 1e3}\n"
        )
        engine = self.target if role == "target" else self.draft
        model = ["--model", f"replay:{engine}", "--max-streams", "32"]
        return [
            role,
            "--config",
            str(config),
            "--keys",
            str(ring.directory),
            "--connect",
            endpoint,
            *model,
        ]


@contextlib.asynccontextmanager
async def _nodes(live: LiveCell, made: _Files, setting: Setting) -> AsyncIterator[None]:
    """Run the target, at the hub or a station, and draft nodes at the other stations."""
    limit = {"AIRDRAFT_JOIN_TIMEOUT_S": "60"}
    async with contextlib.AsyncExitStack() as stack:
        if not setting.is_target_on_air:
            model = ["--model", f"replay:{made.target}", "--max-streams", "32"]
            keys = ["--keys", str(made.hub.directory), "--connect", made.endpoint]
            await stack.enter_async_context(_node(live, HUB, ["target", *model, *keys], limit))
        for station in setting.cell().stations:
            node = await made.station(station)
            await stack.enter_async_context(_node(live, station.name, node, limit))
        yield


@contextlib.asynccontextmanager
async def _node(
    live: LiveCell, place: str, arguments: list[str], environ: dict[str, str]
) -> AsyncIterator[None]:
    argv = live.command(place, [sys.executable, "-m", "nodes.cli", *arguments])
    process = await asyncio.create_subprocess_exec(*argv, env={**os.environ, **environ})
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 5.0)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _run_policy(live: LiveCell, made: _Files, setting: Setting, policy: str) -> Figures:
    task = Task(
        policy=policy,
        listen=made.endpoint,
        keys=str(made.hub.directory),
        recording=str(RECORDING),
        texts=made.texts,
        num_streams=setting.num_streams,
        num_nodes=1 + NUM_DRAFTS,
        warm_up_s=setting.warm_up_s,
        seconds=setting.seconds,
    )
    argv = live.command(HUB, [sys.executable, "-m", "bench.live.edge_hub"])
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        limit_s = _HUB_LIMIT_S + setting.warm_up_s + setting.seconds
        task_line = (json.dumps(asdict(task)) + "\n").encode()
        out, _ = await asyncio.wait_for(process.communicate(task_line), limit_s)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode:
        raise RuntimeError(f"the hub ended with code {process.returncode}; see its message above")
    return Figures(**json.loads(out))
