"""Real processes are started, killed, stopped, and gone at the end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from bench.harness.airdraft import VARIABLE
from bench.harness.fleet import CLIENT, COORDINATOR, FleetError, Setup, fleet, free_port, make_keys
from bench.harness.processes import ROOT, Process
from nodes.client.generation import GenerateOptions
from nodes.keys.keyring import Keyring
from nodes.messages import TokensNotice

Eventually = Callable[..., "asyncio.Future[None]"]
SMALL = Setup(num_targets=1, num_drafts=1)


def is_there(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    # Whether anybody takes the exit code of an orphan is the machine's affair.
    return stat.rpartition(")")[2].split()[0] != "Z"


async def test_processes_run_commands_and_tell_how_they_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    limits = ["sh", "-c", "ulimit -n; pwd"]
    codes = []
    for process in (
        lambda: Process(["--version"], environ, log),
        lambda: Process(["target", "--cells", "x"], environ, log),
        lambda: Process(limits, environ, log, executes=True, max_files=64),
    ):
        began = process()
        await began.ended.wait()
        codes.append(began.code)
        assert not began.signal(signal.SIGKILL)
    assert codes == [0, 2, 0]
    text = log.read_text()
    assert "pyzmq" in text
    assert "error: " in text
    assert text.endswith(f"\n64\n{tmp_path}\n")


def test_a_harness_that_dies_takes_its_processes_along(tmp_path: Path) -> None:
    script = """
import asyncio, os, signal
from bench.harness.fleet import Setup, fleet

async def main():
    async with fleet(Setup(num_targets=1, num_drafts=1)) as made, made.clients(1) as (client,):
        await made.wait_for(client)
        print(*(made.process(name).pid for name in made.roles), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    pids = list(map(int, done.stdout.split()))
    assert len(pids) == 3, done.stderr
    give_up_at = time.monotonic() + 60.0
    while any(map(is_there, pids)):
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


def test_keys_let_each_member_in_under_its_role_only(tmp_path: Path) -> None:
    make_keys(tmp_path, "tcp://127.0.0.1:20001", {"target-0": "target", "draft-0": "draft"})
    entries = Keyring(tmp_path / COORDINATOR).authorized().nodes().values()
    roles = {entry.name: entry.roles for entry in entries}
    assert roles["target-0"] == {"target"}
    assert roles["draft-0"] == {"draft"}
    assert roles[CLIENT] == {"client", "gateway", "admin"}
    assert Keyring(tmp_path / CLIENT).client_keys("tcp://127.0.0.1:20001") is not None


async def test_a_fleet_serves_survives_and_leaves_nothing(eventually: Eventually) -> None:
    async with fleet(SMALL) as made, made.clients(1) as (client,):
        await made.wait_for(client)
        pids = [made.process(name).pid for name in made.roles]
        folder = made.folder
        options = GenerateOptions(max_tokens=8, seed=1)
        events = [event async for event in client.generate("a mesh", options)]
        assert sum(len(e.token_ids) for e in events if isinstance(e, TokensNotice)) == 8
        # Links have keys: the coordinator knows who is who by them.
        nodes = {node.node for node in (await client.nodes()).nodes}
        assert nodes == {made.node("target-0"), made.node("draft-0")}
        made.stop("draft-0")
        await eventually(lambda: made.process("draft-0").is_stopped)
        made.go_on("draft-0")
        for name in ("target-0", COORDINATOR):
            before = made.process(name).pid
            killed_at = await made.kill(name)
            await made.start(name)
            assert made.process(name).pid != before
            await made.wait_for(client)
            await made.has_changed("target-0", killed_at, has_left=False)
        made.stop("target-0")
        pids += [made.process(name).pid for name in made.roles]
        assert await made.terminate("draft-0") == 0
        assert made.accidents == []
    assert not any(is_there(pid) for pid in pids)
    assert not folder.exists()


@pytest.mark.parametrize("over", ["tcp", "ipc"])
async def test_a_fleet_without_keys_serves_too(over: Literal["tcp", "ipc"]) -> None:
    setup = Setup(num_targets=1, num_drafts=0, num_gateways=1, over=over)
    async with fleet(setup) as made:
        await made.are_in("target-0")
        assert await made.is_ready("gateway-0") == made.port("gateway-0")


async def test_who_ends_without_being_told_is_an_accident(eventually: Eventually) -> None:
    failing = {VARIABLE: "receive.Welcome:error"}
    async with fleet(SMALL, starts=[COORDINATOR]) as made:
        await made.start("draft-0", environ=failing)
        await eventually(lambda: made.accidents)
        with pytest.raises(FleetError, match="draft-0 ended by itself"):
            made.check()
        (accident,) = made.accidents
        assert accident.startswith("draft-0 ended by itself (exit code 1)")
        assert "a fail point was reached" in accident
        assert "the fail point receive.Welcome:error is on" in made.log("draft-0").read_text()
        # Whoever is expected to end is not.
        await made.start("draft-0", environ=failing)
        made.expect_end("draft-0")
        await made.process("draft-0").ended.wait()
        assert len(made.accidents) == 1


async def test_a_fail_point_that_cannot_be_understood_is_one_line_and_exit_code_78() -> None:
    async with fleet(SMALL, starts=()) as made:
        process = await made.start("draft-0", environ={VARIABLE: "engine.pass:burn"})
        made.expect_end("draft-0")
        await process.ended.wait()
        assert process.code == 78
        (line,) = made.log("draft-0").read_text().splitlines()
        assert line.startswith("error: AIRDRAFT_FAILPOINT = 'engine.pass:burn'")


async def test_an_error_inside_still_ends_everything() -> None:
    pids: list[int] = []

    async def work() -> None:
        async with fleet(SMALL) as made:
            pids.extend(made.process(name).pid for name in made.roles)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        await work()
    assert pids
    assert not any(is_there(pid) for pid in pids)


def test_a_free_port_is_outside_the_range_of_connections() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert free_port() < low
