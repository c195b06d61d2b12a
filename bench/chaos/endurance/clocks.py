"""Run a mesh whose processes have different monotonic clocks, and wall clocks that jump."""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import click

from bench.asking import ask, taken_of
from bench.harness.fleet import COORDINATOR, Setup, fleet
from bench.harness.report import Findings
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions

DAY_S: Final = 86_400
# How far the monotonic clock of each process is ahead.
_AHEAD_S: Final = {COORDINATOR: 0, "target-0": DAY_S, "draft-0": 10 * DAY_S}
_LIMIT_S: Final = 60.0
_FRESH_S: Final = 0.6
_SOURCE: Final = Path(__file__).with_name("wall_clock.c")
_OPTIONS: Final = GenerateOptions(max_tokens=200, ignore_eog=True, chat=False, gamma=4)
_PROMPTS: Final = tuple(f"what the clock says, {number}" for number in range(4))


# The texts of a round of requests, and how many guesses of draft nodes were accepted in it.
Round = tuple[tuple[str, ...], int]


async def run_clocks(
    jumps_s: Sequence[int] = (DAY_S, -DAY_S, 0, 400 * DAY_S, -400 * DAY_S),
) -> Findings:
    """Let the wall clocks of all processes jump while they work, each with its monotonic clock.

    Raises ClickException if clocks of processes cannot be changed on this machine.
    """
    found, rounds = Findings(), list[Round]()
    with tempfile.TemporaryDirectory(prefix="airdraft-clocks-") as folder:
        offset = Path(folder) / "offset"
        environ = _with_wall_clock(Path(folder) / "wall_clock.so", offset)
        setup = Setup(
            num_targets=1, num_drafts=1, over="tcp", draft_model="toy:0.9", environ=environ
        )
        async with fleet(setup, starts=()) as mesh, mesh.clients(1) as (client,):
            for name, ahead_s in _AHEAD_S.items():
                await mesh.start(name, prefix=_in_time_namespace(ahead_s))
            await mesh.wait_for(client)
            rounds.append(await _round(client))
            members = [(n.name, n.state) for n in (await client.status()).nodes]
            looked_at = time.monotonic()
            # A coordinator repeats its last status for half a second.
            await asyncio.sleep(_FRESH_S)
            for jump_s in jumps_s:
                asked = asyncio.create_task(_round(client))
                # Jump while the requests are under way.
                await asyncio.sleep(0.05)
                _shift(offset, jump_s)
                rounds += [await asked, await _round(client)]
            status, limit_s = await client.status(), _LIMIT_S * (1 + len(jumps_s))
            if [(n.name, n.state) for n in status.nodes] != members:
                found.faults.append(f"members have changed: {status.nodes}")
            for node in status.nodes:
                if not time.monotonic() - looked_at <= node.joined_s <= limit_s:
                    found.faults.append(f"{node.name} seems to have joined {node.joined_s} s ago")
            if status.uptime_s > limit_s:
                found.faults.append(f"status reports an uptime of {status.uptime_s:.0f} s")
            found.faults += mesh.accidents
    num_accepted = sum(accepted for _, accepted in rounds)
    days = ", ".join(f"{jump_s / DAY_S:+.0f}" for jump_s in jumps_s)
    found.lines.append(
        f"monotonic clocks of target and draft node 1 and 10 days ahead, wall clocks that jump "
        f"during requests to {days} days: {len(rounds)} rounds of the same {len(_PROMPTS)} "
        f"texts, {num_accepted} guesses accepted"
    )
    if len({texts for texts, _ in rounds}) != 1:
        found.faults.append("texts differ from round to round")
    if not num_accepted:
        found.faults.append("no guess of the draft node was accepted")
    return found


def _in_time_namespace(ahead_s: int) -> list[str]:
    """Return a command prefix that sets monotonic clocks ahead."""
    # A time namespace applies only to children, hence --fork. They end with the signalled process.
    offsets = [f"--monotonic={ahead_s}", f"--boottime={ahead_s}"]
    prefix = ["unshare", "--time", *offsets, "--fork", "--kill-child=SIGKILL"]
    _run([*prefix, "true"], "a time namespace cannot be made")
    return prefix


def _with_wall_clock(library: Path, offset: Path) -> dict[str, str]:
    """Return an environment whose processes see the wall clock shifted by the file's seconds."""
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl"]
    _run(command, f"{_SOURCE.name} cannot be compiled")
    environ = {"LD_PRELOAD": str(library), "AIRDRAFT_BENCH_WALL_OFFSET": str(offset)}
    offset.write_bytes(bytes(8))
    _shift(offset, DAY_S)
    script = "import time; print(time.time_ns() // 10**9, int(time.time()))"
    seen = _run([sys.executable, "-c", script], "LD_PRELOAD cannot be used", environ)
    _shift(offset, 0)
    if any(abs(int(second) - time.time() - DAY_S) > _LIMIT_S for second in seen.split()):
        raise click.ClickException("LD_PRELOAD does not shift the wall clock")
    return environ


def _shift(offset: Path, seconds: int) -> None:
    with offset.open("r+b") as file:
        file.write(struct.pack("=q", seconds))


def _run(command: list[str], problem: str, environ: Mapping[str, str] | None = None) -> str:
    """Run a command and return its output. Raises ClickException with this problem if it fails."""
    if shutil.which(command[0]) is None:
        raise click.ClickException(f"{problem}: the command `{command[0]}` is missing")
    env = {**os.environ, **(environ or {})}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{problem}: {done.stderr.strip()[-300:]}")
    return done.stdout


async def _round(client: Client) -> Round:
    async with asyncio.timeout(_LIMIT_S):
        answers = await asyncio.gather(*(ask(client, prompt, _OPTIONS) for prompt in _PROMPTS))
    return tuple(answer.text for answer in answers), taken_of(answers).num_accepted
