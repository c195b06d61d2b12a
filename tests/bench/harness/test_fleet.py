"""Real processes are started, killed, stopped, fail at points, and are gone at the end."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import pytest

from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.keys.keyring import Keyring
from airdraft.nodes.messages import TokensNotice
from bench.emulate.replay import read_config
from bench.harness.airdraft import ENGINE_PASS, VARIABLE, FailPointError, parse
from bench.harness.fleet import CLIENT, COORDINATOR, FleetError, Setup, fleet
from bench.harness.processes import PROGRAM, ROOT, Process
from tests.engine.printed import is_running

Eventually = Callable[..., "asyncio.Future[None]"]
SMALL = Setup(num_targets=1, num_drafts=1)


async def test_processes_run_commands_and_tell_how_they_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    codes = []
    for command in ([*PROGRAM, "--version"], [*PROGRAM, "target", "--cells", "x"], ["pwd"]):
        began = Process(command, environ, log)
        await began.ended.wait()
        codes.append(began.code)
        assert not began.signal(signal.SIGKILL)
    assert codes == [0, 2, 0]
    text = log.read_text()
    assert "pyzmq" in text
    assert "error: " in text
    assert text.endswith(f"\n{tmp_path}\n")


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
    while any(map(is_running, pids)):
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


async def test_a_fleet_serves_survives_and_leaves_nothing(eventually: Eventually) -> None:
    async with fleet(SMALL) as made, made.clients(1) as (client,):
        await made.wait_for(client)
        pids = [made.process(name).pid for name in made.roles]
        folder = made.folder
        options = GenerateOptions(max_tokens=8, seed=1)
        events = [event async for event in client.generate("a mesh", options)]
        assert sum(len(e.token_ids) for e in events if isinstance(e, TokensNotice)) == 8
        # Links have keys: the coordinator knows who is who by them, and each under its role.
        entries = Keyring(made.keys(COORDINATOR)).authorized().nodes().values()
        roles = {entry.name: entry.roles for entry in entries}
        assert (roles["target-0"], roles["draft-0"]) == ({"target"}, {"draft"})
        assert roles[CLIENT] == {"client", "gateway", "admin"}
        nodes = {node.node for node in (await client.nodes()).nodes}
        assert nodes == {made.node("target-0"), made.node("draft-0")}
        draft = made.process("draft-0")
        draft.signal(signal.SIGSTOP)
        await eventually(lambda: draft.is_stopped)
        draft.signal(signal.SIGCONT)
        for name in ("target-0", COORDINATOR):
            before = made.process(name).pid
            killed_at = await made.kill(name)
            await made.start(name)
            assert made.process(name).pid != before
            await made.wait_for(client)
            await made.wait_changed("target-0", killed_at, has_left=False)
        assert made.has_lost_coordinator()
        made.process("target-0").signal(signal.SIGSTOP)
        pids += [made.process(name).pid for name in made.roles]
        assert await made.terminate("draft-0") == 0
        assert made.accidents == []
    assert not any(is_running(pid) for pid in pids)
    assert not folder.exists()


@pytest.mark.parametrize("over", ["tcp", "ipc"])
async def test_a_fleet_without_keys_serves_too(over: Literal["tcp", "ipc"]) -> None:
    setup = Setup(num_targets=1, num_drafts=0, num_gateways=1, over=over)
    async with fleet(setup) as made:
        await made.wait_joined("target-0")
        assert await made.wait_ready("gateway-0") == made.port("gateway-0")


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
        # Whoever is expected to end is not; a fail point that nobody knows is one line.
        process = await made.start("draft-0", environ={VARIABLE: "engine.pass:burn"})
        made.expect_end("draft-0")
        await process.ended.wait()
        assert (process.code, len(made.accidents)) == (78, 1)
        line = made.log("draft-0").read_text().splitlines()[-1]
        assert line.startswith("error: AIRDRAFT_FAILPOINT = 'engine.pass:burn'")


@pytest.mark.parametrize(("times", "fails_at"), [("", 1), (":2", 2), (":0.25", 2)])
def test_it_fails_at_the_place_that_is_named_and_as_often_as_is_said(
    times: str, fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = iter((0.5, 0.2, 0.9))
    monkeypatch.setattr(random, "random", lambda: next(draws))
    point = parse(f"send.Ping:error{times}")
    for place in (ENGINE_PASS, "receive.Ping", "send.Hello"):
        point.reached(place)
    for number in (1, 2, 3):
        fails = pytest.raises(FailPointError) if number == fails_at else nullcontext()
        with fails:
            point.reached("send.Ping")


@pytest.mark.parametrize(
    "value",
    [
        *("", "engine.pass", "write.Ping:kill", "send.Nothing:kill", "engine.pass:burn"),
        *(f"engine.pass:{what}" for what in ("kill:x", "kill:0", "kill:1.5", "kill:1:1", "block")),
    ],
)
def test_what_cannot_be_understood_is_said_in_one_line(value: str) -> None:
    with pytest.raises(ValueError, match=r"AIRDRAFT_FAILPOINT.*: expected NAME:ACTION") as caught:
        parse(value)
    assert "\n" not in str(caught.value)


NODES = Path(__file__).parents[3] / "bench" / "emulate" / "nodes"


def test_a_mesh_of_emulated_nodes_answers_as_recorded(tmp_path: Path) -> None:
    target = NODES / "agx-orin-llama-3.1-8b.toml"
    recording = read_config(target).recording
    text = recording.texts[0]
    arguments = ["run", "--model", f"replay:{target}", "--draft", "none", text.prompt]
    done = subprocess.run(
        [sys.executable, "-m", "bench.harness.airdraft", *arguments, "--max-tokens", "8"],
        cwd=NODES.parents[2],
        env={"PYTHONPATH": str(NODES.parents[2]), "AIRDRAFT_KEYS": str(tmp_path)},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pieces = (recording.pieces[token_id] for token_id in text.output_ids[:8])
    assert done.stdout.rstrip(b"\n") == b"".join(pieces).rstrip(b"\n")
