"""The edge cell, emulated: one strong target, four small draft nodes on one narrow radio cell.

Everything is emulated but the software: models answer from a recording of a real pair, after the
times of devices that are not here (`nodes/engine/replay.py`), and packets pass through a medium
that does not exist (`bench/emulate/`). Coordinator, nodes, keys, messages and TCP are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from bench.emulate.cell import Cell, Contention, Station
from bench.emulate.open import LiveCell, Means, open_cell
from bench.emulate.tun import HUB
from bench.live.edge_hub import Figures, Task
from mesh.authorized import Entry
from mesh.keys import KnownCoordinator
from nodes.coordinator.members.access import ROLES
from nodes.engine.recording import read_recording
from nodes.keyring import Keyring

PORT = 7411
NUM_DRAFTS = 4
# Of the fastest station's rate.
RATES = (0.25, 0.5, 1.0, 1.0)
FRAME_S = 0.5e-3
_BENCH = Path(__file__).parents[1]
RECORDING = _BENCH / "emulate" / "recordings" / "smollm2-135m.json.z"
# Acceptance wanted -> whose guesses, and of which texts. The times are those of one device.
ALPHAS = {
    0.4: ("smollm2-draft", 0.35, 0.45),
    0.5: ("smollm2-draft", 0.45, 0.55),
    0.6: ("smollm2-draft", 0.55, 0.65),
    0.7: ("smollm2-135m-q4_0", 0.65, 0.75),
    0.8: ("smollm2-135m-q4_0", 0.75, 0.85),
    0.9: ("smollm2-135m-q4_0", 0.85, 0.95),
}
_TARGET = ("jetson-agx-orin.toml", "llama-3.1-8b")
_DRAFT = ("jetson-orin-nano.toml", "llama-160m")
_HUB_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """rate_bps: of the fastest station when the cell is otherwise silent."""

    rate_bps: float
    alpha: float
    num_streams: int = 16
    warm_up_s: float = 8.0
    seconds: float = 12.0

    def cell(self) -> Cell:
        stations = [
            Station(name=f"nano-{k}", rate_bps=self.rate_bps * part, delay_s=1e-3)
            for k, part in enumerate(RATES)
        ]
        return Cell(stations=tuple(stations), access=Contention(), frame_s=FRAME_S)


async def run_setting(
    setting: Setting, policies: Sequence[str], means: Means, report: Callable[[str], None]
) -> dict[str, Figures]:
    """All policies in one cell, one after the other; nodes stay, coordinators change."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="airdraft-edge-") as folder:
        async with open_cell(setting.cell(), means=means) as (live, kind):
            report(f"cell of {setting.rate_bps / 1e3:g} kbit/s, alpha {setting.alpha}: {kind}")
            made = _Files(Path(folder), setting, live)
            async with _nodes(live, made, setting.cell()):
                for policy in policies:
                    found[policy] = await _run_policy(live, made, setting, policy)
                    report(row(setting, policy, found))
    return found


HEAD = (
    "| cell kbit/s | alpha | policy | tokens/s | ms a token | to ad | achieved / planned "
    "| passes with guesses | accepted | bytes a token | lap error | steady laps | other laps "
    "| pass error | wrong texts |\n" + "|---" * 15 + "|"
)


def row(setting: Setting, policy: str, found: dict[str, Figures]) -> str:
    figures = found[policy]
    to_ad = figures.tokens_per_s / found["ad"].tokens_per_s if "ad" in found else float("nan")
    errors = figures.errors or {}
    lap, each = errors.get("lap", (0.0, 0.0, 0)), errors.get("pass", (0.0, 0.0, 0))
    steady, other = figures.steady_laps, figures.other_laps
    tokens = figures.num_rounds + figures.num_plain_steps + figures.num_accepted
    return (
        f"| {setting.rate_bps / 1e3:g} | {setting.alpha} | {policy} | {figures.tokens_per_s:.1f} "
        f"| {figures.token_s * 1e3:.1f} | {to_ad:.2f} "
        f"| {figures.tokens_per_s / figures.planned_tokens_per_s:.2f} "
        f"| {figures.guessing_share:.2f} | {figures.acceptance:.2f} "
        f"| {figures.wire_bytes / max(1, tokens):.1f} | {lap[0]:.2f}, p95 {lap[1]:.2f} "
        f"| {steady[0]:.2f}, p95 {steady[1]:.2f} of {steady[2]} "
        f"| {other[0]:.2f}, p95 {other[1]:.2f} of {other[2]} "
        f"| {each[0]:.2f}, p95 {each[1]:.2f} | {figures.num_wrong} of {figures.num_texts} |"
    )


class _Files:
    """Keys and settings of all machines of a cell."""

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
        self.target = self._emulated("target", "", *_TARGET)
        self.draft = self._emulated("draft", guesses, *_DRAFT)

    def _emulated(self, name: str, draft: str, device: str, model: str) -> Path:
        profiles = _BENCH / "profiles"
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
        """Options of a draft node at a station: authorized, and its link declared."""
        ring = Keyring(self._folder / station.name)
        self.hub.authorized().add(Entry(ring.make_own().public, station.name, frozenset({"draft"})))
        host, port = await self._live.dial(station.name, PORT)
        endpoint = f"tcp://{host}:{port}"
        ring.keep_coordinator(KnownCoordinator(endpoint, self._server))
        config = self._folder / f"{station.name}.toml"
        config.write_text(
            f'name = "{station.name}"\n[link]\nair = "cell"\n'
            f"rate_kbps = {station.rate_bps / 1e3}\nframe_ms = {FRAME_S * 1e3}\n"
        )
        model = ["--model", f"replay:{self.draft}", "--max-streams", "32"]
        return [
            "--config",
            str(config),
            "--keys",
            str(ring.directory),
            "--connect",
            endpoint,
            *model,
        ]


@contextlib.asynccontextmanager
async def _nodes(live: LiveCell, made: _Files, cell: Cell) -> AsyncIterator[None]:
    """The target at the hub and a draft node at each station, until the end."""
    limit = {"AIRDRAFT_JOIN_TIMEOUT_S": "60"}
    async with contextlib.AsyncExitStack() as stack:
        model = ["--model", f"replay:{made.target}", "--max-streams", "32"]
        keys = ["--keys", str(made.hub.directory), "--connect", made.endpoint]
        await stack.enter_async_context(_node(live, HUB, ["target", *model, *keys], limit))
        for station in cell.stations:
            options = await made.station(station)
            await stack.enter_async_context(_node(live, station.name, ["draft", *options], limit))
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
        said = (json.dumps(asdict(task)) + "\n").encode()
        out, _ = await asyncio.wait_for(process.communicate(said), limit_s)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode:
        raise RuntimeError(f"the hub ended with code {process.returncode}; its message is above")
    return Figures(**json.loads(out))


def verdict(found: Mapping[Setting, Mapping[str, Figures]]) -> tuple[str, bool]:
    """What the suite says in all, and whether it made sense: some guesses, no wrong text."""
    lines = []
    to_best, to_quickest, to_ad, achieved, shares = [], [], [], [], []
    num_wrong = num_texts = 0
    for setting, by_policy in found.items():
        num_wrong += sum(f.num_wrong for f in by_policy.values())
        num_texts += sum(f.num_texts for f in by_policy.values())
        joint = by_policy.get("joint")
        if joint is None:
            continue
        others = [f for name, f in by_policy.items() if name != "joint"] or [joint]
        to_best.append(joint.tokens_per_s / max(f.tokens_per_s for f in others))
        to_quickest.append(min(f.token_s for f in others) / joint.token_s)
        shares.append(joint.guessing_share)
        achieved.append(joint.tokens_per_s / joint.planned_tokens_per_s)
        if "ad" in by_policy and setting.alpha >= 0.7:
            to_ad.append(joint.tokens_per_s / by_policy["ad"].tokens_per_s)
    for name, values in (
        ("joint to the best other policy, tokens/s", to_best),
        ("the same by the mean stream's seconds a token", to_quickest),
        ("joint to ad at alpha 0.7 and above", to_ad),
        ("achieved by joint to planned", achieved),
    ):
        if values:
            lines.append(f"{name}: least {min(values):.3f}, median {median(values):.3f}")
    lines.append(f"texts that differ from the recording: {num_wrong} of {num_texts}")
    guesses = max(shares, default=0.0)
    lines.append(f"largest share of passes with guesses under joint: {guesses:.2f}")
    return "\n".join(lines), num_wrong == 0 and (guesses > 0 or not shares)
