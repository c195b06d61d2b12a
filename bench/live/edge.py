"""The emulated edge cell: a strong target and four small draft nodes on one narrow radio cell.

Models answer from a recording of a real pair, with the times of other devices
(`bench/emulate/replay.py`), and packets pass through an emulated medium (`bench/emulate/`).
Coordinator, nodes, keys, messages and TCP are real.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, get_args

import click

from bench.emulate.open import Means, open_cell
from bench.emulate.recording import read_recording
from bench.emulate.replay import PREFIX
from bench.harness.fleet import COORDINATOR, Fleet, FleetError, Setup, fleet
from bench.harness.places import HUB
from bench.harness.report import Findings, conclude, note
from bench.live.edge_hub import Figures, Task
from bench.live.edge_report import HEAD, Turns, faults_of, row_of, summary
from bench.live.edge_setting import (
    AIR,
    ALPHAS,
    FRAME_S,
    NUM_DRAFTS,
    RECORDING,
    TARGET_STATION,
    Setting,
    edge_options,
    edge_settings,
    node_file,
)
from bench.pairs import in_turns

_HUB_LIMIT_S = 60.0
_TARGET, _HUB = "target-0", "clients"


@click.command("edge")
@edge_options
@click.option("--streams", default=16)
@click.option("--seconds", default=16.0, help="Measured seconds of each policy's turn.")
@click.option("--warm-up", default=8.0, help="Seconds of a turn before measuring begins.")
@click.option("--turns", default=1, help="Turns of each policy; several show the noise.")
@click.option("--means", type=click.Choice(get_args(Means)), default="auto")
def edge_command(
    policies: list[str],
    streams: int,
    seconds: float,
    warm_up: float,
    turns: int,
    means: Means,
    **cells: Any,
) -> None:
    """EMULATED: measure a mesh on one radio cell.

    One strong target has four small draft nodes, whose links have different rates.

    \b
    Example:
      python -m bench live edge --rates-kbps 2000 --alphas 0.8 --policies plain,auto
    """
    settings = edge_settings(**cells, num_streams=streams, warm_up_s=warm_up, seconds=seconds)
    found: dict[Setting, Turns] = {}
    click.echo(f"emulated devices, emulated air\n{HEAD}")
    for setting in settings:
        found[setting] = asyncio.run(run_setting(setting, policies, means, turns))
        for policy in policies:
            click.echo(row_of(setting, policy, found[setting]))
    conclude(Findings([summary(found)], faults_of(found)))


async def run_setting(
    setting: Setting, policies: Sequence[str], means: Means, num_turns: int = 1
) -> Turns:
    """Run all policies in turns in one cell, where nodes stay. Each run has its own coordinator."""
    guesses, low, high = ALPHAS[setting.alpha]
    setup = Setup(
        num_targets=1,
        num_drafts=NUM_DRAFTS,
        target_model=f"{PREFIX}{node_file()}",
        draft_model=f"{PREFIX}{node_file(guesses)}",
        max_streams=32,
        environ={"AIRDRAFT_JOIN_TIMEOUT_S": "60"},
    )
    async with (
        open_cell(setting.cell(), means=means) as (live, kind),
        fleet(setup, places=live, starts=()) as mesh,
    ):
        note(f"{setting.place}: {kind}")
        await _start_nodes(mesh, setting)
        recording = read_recording(RECORDING)
        wanted = recording.texts_with(guesses, low, high)
        texts = [k for k, text in enumerate(recording.texts) if text in wanted]

        async def run(policy: str, _turn: int) -> Figures:
            return await _run_policy(mesh, texts, setting, policy)

        turns = await in_turns(num_turns, *(partial(run, policy) for policy in policies))
    return dict(zip(policies, zip(*turns, strict=True), strict=True))


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
