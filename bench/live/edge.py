"""The emulated edge cell: a strong target and four small draft nodes on one narrow radio cell.

Models answer from a recording of a real pair, with the times of other devices
(`bench/emulate/replay.py`), and packets pass through an emulated medium (`bench/emulate/`).
Coordinator, nodes, keys, messages and TCP are real.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from statistics import fmean
from typing import Any, Literal, get_args

import click

from airdraft.nodes.scheduler.planning import MODES
from bench.emulate.open import Means, open_cell
from bench.emulate.recording import read_recording
from bench.emulate.replay import PREFIX
from bench.harness.fleet import COORDINATOR, Fleet, FleetError, Setup, fleet
from bench.harness.report import Findings, conclude, note
from bench.harness.streams import RECORDING, Task, listened, streams
from bench.live.edge_cell import (
    AIR,
    ALPHAS,
    FRAME_S,
    HEAD,
    NUM_DRAFTS,
    Figures,
    Setting,
    Turns,
    faults_of,
    node_file,
    row_of,
    summary,
)
from bench.options import NUMBERS, at_least, listed, names_option
from bench.pairs import in_turns
from bench.sim.edge import run_edge

_START_LIMIT_S = 120.0


@click.command("edge")
@click.option("--rates-kbps", type=NUMBERS, default="200,2000,20000", help="Of the cell.")
@click.option("--alphas", type=listed(float, lambda: ALPHAS), default="0.4,0.6,0.7,0.8,0.9")
@names_option("--policies", dict.fromkeys(("plain", "auto", *MODES)), "Planning modes.")
@click.option(
    "--ideal-air", "has_ideal_air", is_flag=True, help="Send in order of arrival, not by back-off."
)
@click.option(
    "--target-on-air", "is_target_on_air", is_flag=True, help="Make the target a station, too."
)
@at_least("--streams", 16, None, "num_streams")
@at_least("--seconds", 16.0, "Measured seconds of each policy's turn.")
@at_least("--warm-up", 8.0, "Seconds of a turn before measuring.", "warm_up_s", least=0)
@at_least("--turns", 1, "Turns of each policy; several show the noise.")
@click.option("--means", type=click.Choice([*get_args(Means), "simulated"]), default="auto")
def edge_command(
    rates_kbps: list[float],
    alphas: list[float],
    policies: list[str],
    turns: int,
    means: Literal[Means, "simulated"],
    **fields: Any,
) -> None:
    """EMULATED: measure a mesh on one radio cell.

    One strong target has four small draft nodes, whose links have different rates. With --means
    simulated all of it runs in virtual time, with the same texts, times and air.

    \b
    Example:
      python -m bench live edge --rates-kbps 2000 --alphas 0.8 --policies plain,auto
    """
    found: dict[Setting, Turns] = {}
    how = "simulated" if means == "simulated" else "emulated"
    click.echo(f"{how} devices, {how} air\n{HEAD}")
    for rate_kbps, alpha in itertools.product(rates_kbps, alphas):
        setting = Setting(rate_bps=rate_kbps * 1e3, alpha=alpha, **fields)
        if means == "simulated":
            made = {p: [run_edge(setting, p, turn) for turn in range(turns)] for p in policies}
            found[setting] = made
        else:
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
        # Only guesses of draft nodes are compared here.
        environ={"AIRDRAFT_JOIN_TIMEOUT_S": "60", "AIRDRAFT_PROMPT_LOOKUP": "false"},
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

        sides = (partial(_run_policy, mesh, texts, setting, policy) for policy in policies)
        turns = await in_turns(num_turns, *sides)
    return dict(zip(policies, zip(*turns, strict=True), strict=True))


async def _start_nodes(mesh: Fleet, setting: Setting) -> None:
    """Start the draft nodes at their stations, and the target at its own or at the hub."""
    if not setting.is_target_on_air:
        await mesh.start("target-0")
    for station in setting.cell().stations:
        config = mesh.folder / f"{station.name}.toml"
        config.write_text(
            f'[link]\nair = "{AIR}"\nrate_kbps = {station.rate_bps / 1e3}\n'
            f"frame_ms = {FRAME_S * 1e3}\n"
        )
        await mesh.start(station.name, "--config", str(config), place=station.name)


async def _run_policy(
    mesh: Fleet, texts: list[int], setting: Setting, policy: str, _turn: int
) -> Figures:
    since = mesh.now()
    settings = {"AIRDRAFT_PLAN__POLICY": policy, "AIRDRAFT_HEARTBEAT_TIMEOUT_S": "5"}
    await mesh.start(COORDINATOR, environ=settings)
    for node in mesh.setup.roles:
        await mesh.wait_changed(node, since, has_left=False, limit_s=_START_LIMIT_S)
    task = Task(num_streams=setting.num_streams, texts=tuple(texts), is_staggered=True)
    async with streams(mesh, task) as hearing:
        (heard,) = await listened([hearing], setting.warm_up_s, setting.seconds)
    await mesh.terminate(COORDINATOR)
    mesh.check()
    if heard.failures:
        raise FleetError(f"requests failed: {dict(heard.failures)}")
    each_s = [heard.seconds / max(1, heard.tokens_of[k]) for k in range(setting.num_streams)]
    return Figures(
        **asdict(heard.taken),
        tokens_per_s=heard.tokens_per_s,
        token_s=fmean(each_s),
        promised=fmean(heard.promised) if heard.promised else 0.0,
        num_texts=heard.num_texts,
        num_wrong=heard.num_wrong,
        wire_bytes=heard.wire_bytes,
        errors=heard.errors,
    )
