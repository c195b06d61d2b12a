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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import click

from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.telemetry.status import Status
from bench.asking import ask, taken_of
from bench.harness.fleet import CLIENT, COORDINATOR, Fleet, Setup, fleet
from bench.harness.http import COMPLETIONS, http_client
from bench.harness.processes import ROOT
from bench.harness.report import Findings

DAY_S: Final = 86_400
# How far the monotonic clock of each process is ahead.
_AHEAD_S: Final = {COORDINATOR: 0, "target-0": DAY_S, "draft-0": 10 * DAY_S}
_LIMIT_S: Final = 60.0
_FRESH_S: Final = 0.6
_SOURCE: Final = Path(__file__).with_name("wall_clock.c")
_NUM_TOKENS: Final = 200
_OPTIONS: Final = GenerateOptions(max_tokens=_NUM_TOKENS, ignore_eog=True, chat=False, gamma=4)
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
            members, looked_at = _members(await client.status()), time.monotonic()
            # A coordinator repeats its last status for half a second.
            await asyncio.sleep(_FRESH_S)
            for jump_s in jumps_s:
                asked = asyncio.create_task(_round(client))
                # Jump while the requests are under way.
                await asyncio.sleep(0.05)
                _shift(offset, jump_s)
                rounds += [await asked, await _round(client)]
            status = await client.status()
            found.faults += _changes(status, members, looked_at, _LIMIT_S * (1 + len(jumps_s)))
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


def _members(status: Status) -> list[tuple[str, str]]:
    return [(node.name, node.state) for node in status.nodes]


def _changes(
    status: Status, members: list[tuple[str, str]], looked_at: float, limit_s: float
) -> list[str]:
    """Returns what a status shows of other members than before, or of times that cannot be."""
    faults = []
    if _members(status) != members:
        faults.append(f"members have changed: {status.nodes}")
    least_s = time.monotonic() - looked_at
    faults += [
        f"{node.name} seems to have joined {node.joined_s} s ago"
        for node in status.nodes
        if not least_s <= node.joined_s <= limit_s
    ]
    if status.uptime_s > limit_s:
        faults.append(f"status reports an uptime of {status.uptime_s:.0f} s")
    return faults


async def run_alone(jumps_s: Sequence[int] = (DAY_S, -DAY_S)) -> Findings:
    """Let the wall clock of one role after the other jump while it works, and those of no others.

    The coordinator then also refuses and takes invitations. Raises ClickException as run_clocks().
    """
    found, rounds, outputs = Findings(), list[Round](), list[bytes]()
    with tempfile.TemporaryDirectory(prefix="airdraft-clocks-") as folder:
        setup = Setup(num_targets=1, num_drafts=1, num_gateways=1, draft_model="toy:0.9")
        roles = [COORDINATOR, *setup.roles, CLIENT]
        offsets = {name: Path(folder) / name for name in roles}
        library = Path(folder) / "wall_clock.so"
        environs = {name: _with_wall_clock(library, offset) for name, offset in offsets.items()}
        async with fleet(setup, starts=()) as mesh, mesh.clients(1, "admin") as (client,):
            for name in roles[:-1]:
                # A fork of this harness would not load the library.
                await mesh.start(name, prefix=("env",), environ=environs[name])
            await mesh.wait_for(client)
            port = await mesh.wait_ready("gateway-0")
            members, looked_at = _members(await client.status()), time.monotonic()

            async def round_beside(shift: Callable[[], None] = lambda: None) -> None:
                asked = asyncio.gather(_round(client), _over_http(port))
                await asyncio.sleep(0.05)
                shift()
                made, text = await asked
                rounds.append(made)
                outputs.append(text)

            await round_beside()
            for name in roles[:-1]:
                for jump_s in (*jumps_s, 0):
                    await round_beside(partial(_shift, offsets[name], jump_s))
            # A refused invitation is tried for 10 s. These clocks do not touch the command's.
            inviting = asyncio.create_task(_invitations(mesh, offsets[COORDINATOR]))
            for jump_s in (0, *jumps_s):
                outputs.append(await _generated(mesh, environs[CLIENT], offsets[CLIENT], jump_s))
            found.faults += await inviting
            status, limit_s = await client.status(), _LIMIT_S * len(rounds)
            found.faults += _changes(status, members, looked_at, limit_s) + mesh.accidents
    days = ", ".join(f"{jump_s / DAY_S:+.0f}" for jump_s in jumps_s)
    found.lines.append(
        f"wall clock of each role alone set by {days} days and back: {len(rounds)} rounds of the "
        f"same {len(_PROMPTS)} texts, {len(outputs)} answers of the gateway and the command line"
    )
    if len({texts for texts, _ in rounds}) != 1 or len(set(outputs)) != 1 or not outputs[0]:
        found.faults.append("texts differ from round to round")
    return found


async def _over_http(port: int) -> bytes:
    """Returns the text of the first prompt from a gateway."""
    body = {"prompt": _PROMPTS[0], "max_tokens": _NUM_TOKENS, "temperature": 0, "ignore_eos": True}
    async with http_client(port, _LIMIT_S) as http:
        answer = (await http.post(COMPLETIONS, json=body)).raise_for_status()
    return str(answer.json()["choices"][0]["text"]).encode()


async def _generated(mesh: Fleet, environ: Mapping[str, str], offset: Path, jump_s: int) -> bytes:
    """Returns what `airdraft generate` prints of the first prompt; its clock jumps meanwhile."""
    log = mesh.log(CLIENT)
    log.unlink(missing_ok=True)
    _shift(offset, 0)
    options = ("--raw", "--ignore-eog", "--temperature", "0", "--max-tokens", str(_NUM_TOKENS))
    process = await mesh.start(CLIENT, _PROMPTS[0], *options, prefix=("env",), environ=environ)
    mesh.expect_end(CLIENT)
    await mesh.wait_printed(CLIENT)
    _shift(offset, jump_s)
    await asyncio.wait_for(process.ended.wait(), _LIMIT_S)
    # The line of figures comes after the text.
    return log.read_bytes().partition(b"\n")[0]


async def _invitations(mesh: Fleet, offset: Path) -> list[str]:
    """Returns what is wrong with invitations while the coordinator's clock is set."""
    keys, faults = str(mesh.keys(COORDINATOR)), []

    async def invited() -> str:
        words = ("invite", "--role", "draft", "--endpoint", mesh.endpoint, "--expires", "1h")
        return (await _airdraft("keys", *words, "--keys", keys))[1].split()[-1]

    async def joins(token: str, name: str) -> tuple[int, str]:
        return await _airdraft("join", token, "--name", name, "--keys", str(mesh.folder / name))

    late = await invited()
    _shift(offset, DAY_S)
    code, said = await joins(late, "late")
    if not code or "younger than its expiry" not in said or len(said.splitlines()) != 1:
        faults.append(f"an expired invitation: exit code {code}, {said!r}")
    _shift(offset, 0)
    if (await joins(await invited(), "later"))[0]:
        faults.append("an invitation is refused after the clock was set right again")
    return faults


async def _airdraft(*argv: str) -> tuple[int, str]:
    """Run a command; return its exit code and output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "airdraft", *argv),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), _LIMIT_S)
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace").strip()


def _in_time_namespace(ahead_s: int) -> list[str]:
    """Returns a command prefix that sets monotonic clocks ahead."""
    # A time namespace applies only to children, hence --fork. They end with the signalled process.
    offsets = [f"--monotonic={ahead_s}", f"--boottime={ahead_s}"]
    prefix = ["unshare", "--time", *offsets, "--fork", "--kill-child=SIGKILL"]
    _run([*prefix, "true"], "a time namespace cannot be made")
    return prefix


def _with_wall_clock(library: Path, offset: Path) -> dict[str, str]:
    """Returns an environment whose processes see the wall clock shifted by the file's seconds."""
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


async def _round(client: MeshClient) -> Round:
    async with asyncio.timeout(_LIMIT_S):
        answers = await asyncio.gather(*(ask(client, prompt, _OPTIONS) for prompt in _PROMPTS))
    return tuple(answer.text for answer in answers), taken_of(answers).num_accepted
