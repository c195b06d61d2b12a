"""Let the files of every role lie on a full disk (logs, keys, caches), and run commands there."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Final

import click
import httpx

from airdraft.nodes.catalog import DEFAULT_DRAFT, Catalog, default_cache_dir
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.config.sources import environment
from bench.chaos.endurance.disk import airdraft, full, state_of
from bench.chaos.kills.backdrop import Run, backdrop
from bench.harness.cases import toy_cases
from bench.harness.fleet import COORDINATOR, Fleet, Setup, fleet
from bench.harness.http import COMPLETIONS, http_client
from bench.harness.report import Findings

_LIMIT_S: Final = 60.0
_POLL_S: Final = 0.02
# Key files are read anew at each request.
_MOST_RECOVERY_S: Final = 1.0
_GATEWAY: Final = "gateway-0"
_FULL: Final = ("No space left on device", "disk full")
_NUM_CASES: Final = 48
_ASKED: Final = {"prompt": "on a full disk", "max_tokens": 12, "temperature": 0}
_OPTIONS: Final = GenerateOptions(max_tokens=12, ignore_eog=True, chat=False)


def refusals(found: Findings, commands: Iterable[tuple[str, ...]]) -> None:
    """Run commands that cannot write; one that says this not in one line is a fault."""
    for argv in commands:
        name, (_, refusal) = " ".join(argv[:3]), airdraft(*argv)
        found.lines.append(f"full disk: {name}: {refusal}")
        names_cause = any(text in refusal for text in _FULL)
        if not refusal.startswith("error: ") or "\n" in refusal or not names_cause:
            found.faults.append(
                f"{name} does not say in one line that the disk is full: {refusal!r}"
            )


# -- logs and keys ---------------------------------------------------------------------------------


def mesh_on(disk: Path, found: Findings) -> None:
    """Fill the disk with the logs and keys of all processes, and restart members meanwhile."""
    # Here the fleet makes its folder.
    tempfile.tempdir = str(disk)
    asyncio.run(_mesh_on(disk, found))


async def _mesh_on(disk: Path, found: Findings) -> None:
    setup = Setup(num_targets=1, num_drafts=1, num_gateways=1)
    run = Run(seed=1, num_streams=4, setup=setup)
    async with backdrop(run, toy_cases(Random(1), _NUM_CASES)) as scene:
        mesh, ends = scene.fleet, scene.tally.ends
        port = await mesh.wait_ready(_GATEWAY)
        keys = ("--keys", str(mesh.keys(_GATEWAY)))
        api_key = airdraft("apikeys", "add", "web", *keys)[0].split()[-1]
        answers, state = [await _answer(port, api_key)], state_of(disk)
        with full(disk):
            sizes, num_before = _log_sizes(mesh), ends["finished"]
            refusals(found, (("apikeys", what, name, *keys) for what, name in _CHANGES))
            answers.append(await _answer(port, api_key))
            for name in setup.roles:
                await scene.end(name)
                await mesh.start(name)
            await mesh.wait_for(scene.looking)
            answers.append(await _answer(port, api_key, 200))
            num_served = ends["finished"] - num_before
            grown = [size - sizes[name] for name, size in _log_sizes(mesh).items()]
            # The last page of a file has room yet.
            if max(grown) >= mmap.PAGESIZE:
                found.faults.append("a log has grown on a full disk, so this shows nothing")
            if state_of(disk) != state:
                found.faults.append("files other than logs have changed on the full disk")
        began = mesh.now()
        if refusal := airdraft("apikeys", "remove", "web", *keys)[1]:
            found.faults.append(f"with free space again a key cannot be removed: {refusal}")
        await _answer(port, api_key, 401)
        recovered_s = mesh.now() - began
        log = mesh.log(COORDINATOR)
        size = sizes[COORDINATOR]
        what = "the coordinator's log has not gone on"
        await mesh.until(lambda: log.stat().st_size > size, _LIMIT_S, what)
    found.lines.append(
        f"full disk with all logs and keys: {num_served} requests finished while target, draft "
        f"node and gateway were restarted; {len(answers)} answers of the gateway; a removed API "
        f"key was refused {recovered_s:.2f} s after space was freed"
    )
    if set(answers) != {answers[0]} or answers[0][0] != 200:
        found.faults.append(f"answers of the gateway differ: {answers}")
    if not num_served:
        found.faults.append("no request finished on the full disk")
    if recovered_s > _MOST_RECOVERY_S:
        found.faults.append(f"writing works {recovered_s:.2f} s after space was freed")
    if failed := ends["failed"]:
        found.faults.append(f"{failed} requests failed: {dict(scene.tally.reasons)}")
    found.faults += scene.tally.faults


_CHANGES: Final = (("add", "other"), ("remove", "web"))


def _log_sizes(mesh: Fleet) -> dict[str, int]:
    return {name: mesh.log(name).stat().st_size for name in mesh.roles}


async def _answer(port: int, api_key: str, status: int = 0) -> tuple[int, str]:
    """Returns the status and the text of an answer of the gateway.

    status: ask until the answer has this one; by default ask once.
    """
    headers = {"authorization": f"Bearer {api_key}"}
    async with asyncio.timeout(_LIMIT_S), http_client(port, _LIMIT_S) as http:
        while True:
            # Its process may not listen yet.
            with contextlib.suppress(httpx.ConnectError):
                answer = await http.post(COMPLETIONS, json=_ASKED, headers=headers)
                if status in (0, answer.status_code):
                    break
            await asyncio.sleep(_POLL_S)
    is_served = answer.status_code == 200
    return answer.status_code, answer.json()["choices"][0]["text"] if is_served else ""


# -- caches ----------------------------------------------------------------------------------------


def cache_on(disk: Path, found: Findings) -> None:
    """Start real nodes whose calibration cannot be kept, and start them again with free space."""
    asyncio.run(_cache_on(disk, found, smallest_model()))


def smallest_model() -> Path:
    """Returns the file of the smallest model, which serves as target and draft."""
    catalog = Catalog(default_cache_dir(environment()))
    if DEFAULT_DRAFT not in catalog.installed():
        raise click.ClickException(f"no model: airdraft models pull {DEFAULT_DRAFT}")
    return Path(catalog.path(DEFAULT_DRAFT))


async def _cache_on(disk: Path, found: Findings, model: Path) -> None:
    cache, texts, logs = disk / "cache", list[str](), list[str]()
    setup = Setup(
        num_targets=1,
        num_drafts=1,
        target_model=str(model),
        draft_model=str(model),
        environ={"AIRDRAFT_CACHE": str(cache)},
        cells=1024,
        max_streams=2,
    )
    kept = list[int]()
    for disk_is in (full(disk), contextlib.nullcontext()):
        with disk_is:
            async with fleet(setup) as mesh, mesh.clients(1) as (client,):
                await mesh.wait_for(client)
                text = b""
                async for event in client.generate("Once upon a time", _OPTIONS):
                    text += getattr(event, "text", b"")
                texts.append(text.decode(errors="replace"))
                for name in reversed(mesh.roles):
                    if code := await mesh.terminate(name):
                        found.faults.append(f"{name} ended with exit code {code}")
                logs += [mesh.log(name).read_text() for name in setup.roles]
                found.faults += mesh.accidents
            kept.append(len(state_of(disk)))
    warned = [line for log in logs for line in log.splitlines() if "cannot be kept" in line]
    found.lines += [f"full disk: {line.partition(': ')[2]}" for line in warned]
    found.lines.append(f"files of the cache: {kept[0]} on the full disk, {kept[1]} with free space")
    # Target and draft node have one each; those that start later do not calibrate again.
    if len(warned) != len(setup.roles) or any("Traceback" in log for log in logs):
        found.faults.append(f"not one warning for each node: {warned}")
    if kept[0] or not kept[1]:
        found.faults.append(f"files of the cache: {kept}")
    if len(set(texts)) != 1 or not texts[0]:
        found.faults.append(f"texts differ: {texts}")


# -- commands --------------------------------------------------------------------------------------


def commands_on(disk: Path, found: Findings) -> None:
    """Run commands that write models to the full disk."""
    model = str(smallest_model())
    cache = disk / "cache"
    cache.mkdir()
    os.environ["AIRDRAFT_CACHE"] = str(cache)
    with full(disk):
        before = state_of(disk)
        refusals(
            found,
            (
                ("models", "pull", DEFAULT_DRAFT),
                ("models", "vocabulary", model, str(disk / "vocabulary.gguf")),
            ),
        )
        # The lock stays, without a byte.
        left = {name for name in state_of(disk).keys() - before.keys() if ".lock" not in name}
    if left:
        found.faults.append(f"files are left on the full disk: {sorted(left)}")
