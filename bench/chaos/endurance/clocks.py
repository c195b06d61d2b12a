"""Run meshes whose processes have different monotonic clocks or wall clocks that jump."""

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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from bench.harness.fleet import COORDINATOR, Setup, fleet
from bench.harness.report import Findings
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions
from nodes.messages import TokensNotice

DAY_S: Final = 86_400
_LIMIT_S: Final = 60.0
_FRESH_S: Final = 0.6
_SOURCE: Final = Path(__file__).with_name("wall_clock.c")
_OPTIONS: Final = GenerateOptions(max_tokens=200, ignore_eog=True, chat=False, gamma=4)
_PROMPTS: Final = tuple(f"what the clock says, {number}" for number in range(4))
_SMALL: Final = Setup(num_targets=1, num_drafts=1, over="tcp", draft_model="toy:0.9")


class NoClocksError(Exception):
    """Clocks of processes cannot be changed on this machine; the text says why."""


@dataclass(slots=True)
class Clocked(Findings):
    """Results. texts: of each round of requests. num_accepted: accepted guesses of draft nodes."""

    texts: list[tuple[str, ...]] = field(default_factory=list)
    num_accepted: int = 0

    def check(self) -> None:
        """Add faults if texts differ or no guess was accepted."""
        if len(set(self.texts)) != 1:
            self.faults.append("texts differ from round to round")
        if not self.num_accepted:
            self.faults.append("no guess of the draft node was accepted")


def in_time_namespace(offset_s: int) -> list[str]:
    """Return a command prefix that sets monotonic clocks offset_s ahead. Raises NoClocksError."""
    if shutil.which("unshare") is None:
        raise NoClocksError("the command `unshare` is missing")
    # A time namespace applies only to children, hence --fork. They end with the signalled process.
    offsets = [f"--monotonic={offset_s}", f"--boottime={offset_s}"]
    prefix = ["unshare", "--time", *offsets, "--fork", "--kill-child=SIGKILL"]
    done = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoClocksError(f"a time namespace cannot be made: {done.stderr.strip()}")
    return prefix


async def other_monotonic_clocks(num_rounds: int = 3) -> Clocked:
    """Run a target a day and a draft node ten days ahead of the coordinator.

    Raises NoClocksError.
    """
    prefixes = {
        COORDINATOR: [],
        "target-0": in_time_namespace(DAY_S),
        "draft-0": in_time_namespace(10 * DAY_S),
    }
    found = Clocked()
    async with fleet(_SMALL, starts=()) as mesh, mesh.clients(1) as (client,):
        for name, prefix in prefixes.items():
            await mesh.start(name, prefix=prefix)
        await mesh.wait_for(client)
        for _ in range(num_rounds):
            await _round(client, found)
        ages = [node.joined_s for node in (await client.status()).nodes]
        found.faults += mesh.accidents
    if any(age > _LIMIT_S for age in ages):
        found.faults.append(f"status reports a node that joined {max(ages):.0f} s ago")
    found.lines.append(
        f"a target a day ahead and a draft node ten days ahead by their monotonic clocks: "
        f"{num_rounds} rounds of the same {len(_PROMPTS)} texts, {found.num_accepted} guesses "
        f"accepted"
    )
    found.check()
    return found


async def jumping_wall_clocks(
    jumps_s: Sequence[int] = (DAY_S, -DAY_S, 0, 400 * DAY_S, -400 * DAY_S),
) -> Clocked:
    """Let the wall clocks of all processes jump while they work. Raises NoClocksError."""
    found = Clocked()
    with tempfile.TemporaryDirectory(prefix="airdraft-clocks-") as folder:
        library, offset = _compiled(Path(folder)), Path(folder) / "offset"
        offset.write_bytes(struct.pack("=q", 0))
        environ = {"LD_PRELOAD": str(library), "AIRDRAFT_BENCH_WALL_OFFSET": str(offset)}
        _check_preloaded(environ, offset)
        setup = replace(_SMALL, environ=environ, fresh=True)
        async with fleet(setup) as mesh, mesh.clients(1) as (client,):
            await mesh.wait_for(client)
            await _round(client, found)
            members = [(n.name, n.state) for n in (await client.status()).nodes]
            looked_at = time.monotonic()
            # A coordinator repeats its last status for half a second.
            await asyncio.sleep(_FRESH_S)
            for jump_s in jumps_s:
                asked = asyncio.create_task(_round(client, found))
                # Jump while the requests are under way.
                await asyncio.sleep(0.05)
                with offset.open("r+b") as file:
                    file.write(struct.pack("=q", jump_s))
                await asked
                await _round(client, found)
            status = await client.status()
            if [(n.name, n.state) for n in status.nodes] != members:
                found.faults.append(f"members have changed: {status.nodes}")
            if any(n.joined_s < time.monotonic() - looked_at for n in status.nodes):
                found.faults.append("a node has left and come back")
            if status.uptime_s > _LIMIT_S * len(jumps_s):
                found.faults.append(f"status reports an uptime of {status.uptime_s:.0f} s")
            found.faults += mesh.accidents
    days = ", ".join(f"{jump_s / DAY_S:+.0f}" for jump_s in jumps_s)
    found.lines.append(
        f"wall clocks that jump during requests to {days} days: {len(found.texts)} rounds of the "
        f"same {len(_PROMPTS)} texts, {found.num_accepted} guesses accepted"
    )
    found.check()
    return found


def _compiled(folder: Path) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        raise NoClocksError("shifting wall clocks needs Linux and the command `cc`")
    library = folder / "wall_clock.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoClocksError(f"{_SOURCE.name} cannot be compiled: {done.stderr.strip()[-300:]}")
    return library


def _check_preloaded(environ: Mapping[str, str], offset: Path) -> None:
    """Raise NoClocksError unless a process really sees the shifted time."""
    offset.write_bytes(struct.pack("=q", DAY_S))
    done = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time_ns() // 10**9, int(time.time()))"],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    offset.write_bytes(struct.pack("=q", 0))
    seen = [int(word) for word in done.stdout.split()]
    if not seen or any(abs(second - time.time() - DAY_S) > _LIMIT_S for second in seen):
        raise NoClocksError(f"LD_PRELOAD does not shift the wall clock: {done.stderr.strip()}")


async def _round(client: Client, found: Clocked) -> None:
    async with asyncio.timeout(_LIMIT_S):
        texts = await asyncio.gather(*(_text(client, prompt, found) for prompt in _PROMPTS))
    found.texts.append(tuple(texts))


async def _text(client: Client, prompt: str, found: Clocked) -> str:
    text = b""
    async for event in client.generate(prompt, _OPTIONS):
        if isinstance(event, TokensNotice):
            text += event.text
            found.num_accepted += event.num_accepted_tokens
    return text.decode()
