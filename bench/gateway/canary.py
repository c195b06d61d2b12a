"""Search for a word of prompts everywhere a mesh could leave traces of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from bench.gateway.meshes import started

# Joined from parts, so that no source file contains the word itself.
CANARY: Final = "".join(("kestrel", "-", "0d7e", "91", "b4"))
_MODEL: Final = ("--model", "toy:1")
_LIMIT_S: Final = 120.0
_COMPLETIONS: Final = "/completions"
_CHAT: Final = "/chat/completions"
# Pages for operators.
_SHOWN: Final = ("/", "/metrics", "/api/status")


@dataclass(slots=True)
class Search:
    """Findings. num_files, num_pages, num_bytes: searched items. found: places with the word."""

    num_requests: int = 0
    num_processes: int = 0
    num_files: int = 0
    num_pages: int = 0
    num_bytes: int = 0
    core_files: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        return [*self.found, *(f"a core dump: {name}" for name in self.core_files)]

    def __str__(self) -> str:
        return (
            f"{self.num_requests} requests; searched command lines and environments of "
            f"{self.num_processes} processes, {self.num_pages} pages and {self.num_files} files "
            f"({self.num_bytes} bytes): "
            f"{len(self.faults)} faults{''.join(f'{chr(10)}  {f}' for f in self.faults)}"
        )

    def look(self, name: str, content: bytes) -> None:
        self.num_bytes += len(content)
        if CANARY.encode() in content:
            self.found.append(name)


def requests() -> list[tuple[str, dict[str, Any]]]:
    """Return requests of all kinds, valid and invalid, with the word wherever text is possible."""
    message = {"role": "user", "content": f"Say {CANARY}."}
    schema = {"type": "object", "properties": {CANARY: {"const": CANARY}}, "required": [CANARY]}
    text = {"prompt": f"{CANARY} and so on", "max_tokens": 8}
    chat = {"messages": [message], "max_tokens": 8}
    of_schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return [
        (_COMPLETIONS, text),
        (_COMPLETIONS, {**text, "stream": True, "user": CANARY}),
        (_COMPLETIONS, {**text, "prompt": [CANARY, CANARY * 2], "n": 2, "stop": [CANARY]}),
        (_COMPLETIONS, {**text, "echo": True, "logprobs": 2, "max_tokens": 0}),
        (_COMPLETIONS, {**text, "grammar": f'root ::= "{CANARY}"', "max_tokens": 40}),
        (_COMPLETIONS, {**text, "max_tokens": 30_000}),
        (_COMPLETIONS, {**text, "model": CANARY}),
        (_COMPLETIONS, {**text, "grammar": f"root ::= ( {CANARY}"}),
        (_COMPLETIONS, {**text, CANARY: 1}),
        (_COMPLETIONS, {**text, "prompt": {CANARY: CANARY}}),
        (_CHAT, chat),
        (_CHAT, {**chat, "messages": [{"role": "system", "content": CANARY}, message], "n": 3}),
        (_CHAT, {**chat, "stream": True, "logprobs": True, "top_logprobs": 1}),
        (_CHAT, {**chat, "response_format": of_schema, "max_tokens": 80}),
        (_CHAT, {**chat, "response_format": {"type": CANARY}}),
        (_CHAT, {**chat, "messages": [{"role": CANARY, "content": "x"}]}),
        (_CHAT, {**chat, "tools": [{"type": "function", "function": {"name": CANARY}}]}),
    ]


def run_canary(model: tuple[str, ...] = _MODEL, draft: str = "toy:0.8") -> Search:
    """Search the traces of a mesh with the most detailed logs.

    The mesh gets all kinds of requests, some of them aborted. Then each process is crashed.
    """
    search = Search()
    with tempfile.TemporaryDirectory() as name, _core_dumps_allowed():
        folder = Path(name)
        (folder / "tmp").mkdir()
        with _mesh(folder, model, draft) as (url, processes):
            asyncio.run(_ask_all(url, search))
            _look_at_processes(folder, search)
            # Crash all processes, so that anything written at a crash is searched, too.
            for process in processes:
                os.kill(process.pid, signal.SIGABRT)
            for process in processes:
                process.wait(_LIMIT_S)
        _look_at_files(folder, search)
    return search


@contextlib.contextmanager
def _core_dumps_allowed() -> Iterator[None]:
    """Permit core dumps as large as this process's hard limit permits."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)


@contextlib.contextmanager
def _mesh(
    folder: Path, model: tuple[str, ...], draft: str
) -> Iterator[tuple[str, list[subprocess.Popen[str]]]]:
    """Run four processes that write logs, keys and temporary files into the folder."""
    keys, environ = folder / "keys", {"TMPDIR": str(folder / "tmp")}
    with contextlib.ExitStack() as stack:

        def start(role: str, *arguments: str) -> subprocess.Popen[str]:
            log = folder / f"{role}.log"
            arguments = (*arguments, "-v", "-v")
            made = started(role, *arguments, keys=keys, log=log, folder=folder, environ=environ)
            return stack.enter_context(made)

        coordinator = start("coordinator", "--listen", "tcp://127.0.0.1:*")
        assert coordinator.stdout is not None
        endpoint = coordinator.stdout.readline().removeprefix("listening on ").strip()
        target = start("target", "--connect", endpoint, *model)
        drafter = start("draft", "--connect", endpoint, "--model", draft)
        gateway = start("gateway", "--connect", endpoint, "--listen", "127.0.0.1:0")
        assert gateway.stdout is not None
        url = gateway.stdout.readline().removeprefix("OpenAI API at ").strip()
        give_up_at = time.monotonic() + _LIMIT_S
        while not _is_ready(url):
            if time.monotonic() > give_up_at:
                raise RuntimeError(f"the mesh is not ready after {_LIMIT_S:g} s")
            time.sleep(0.05)
        yield url, [gateway, drafter, target, coordinator]


def _is_ready(url: str) -> bool:
    return httpx.get(url.removesuffix("/v1") + "/readyz").status_code == 200


async def _ask_all(url: str, search: Search) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=_LIMIT_S) as client:

        async def ask(path: str, body: dict[str, Any]) -> None:
            search.num_requests += 1
            async with client.stream("POST", path, json=body) as answer:
                await answer.aread()

        await asyncio.gather(*(ask(*request) for request in requests()))
        # Send them one after the other, too: then targets reuse the prompts that they kept.
        for request in requests():
            await ask(*request)
        long = {"prompt": CANARY, "max_tokens": 3000, "stream": True, "ignore_eos": True}
        for _ in range(5):
            search.num_requests += 1
            async with client.stream("POST", _COMPLETIONS, json=long) as answer:
                async for _line in answer.aiter_lines():
                    break
        root = url.removesuffix("/v1")
        for path in _SHOWN:
            answer = (await client.get(f"{root}{path}")).raise_for_status()
            search.num_pages += 1
            search.look(path, answer.content)


def _look_at_processes(folder: Path, search: Search) -> None:
    """Search the mesh's processes, which are found by its folder's name in their environments."""
    mark = str(folder).encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environ = (process / "environ").read_bytes()
            if mark in environ:
                search.num_processes += 1
                search.look(f"{process}/environ", environ)
                search.look(f"{process}/cmdline", (process / "cmdline").read_bytes())


def _look_at_files(folder: Path, search: Search) -> None:
    """Search logs, keys, leftover temporary files, and core dumps."""
    for path in folder.rglob("*"):
        if path.is_file():
            search.num_files += 1
            search.look(str(path), path.read_bytes())
            if path.parent == folder and path.name.startswith("core"):
                search.core_files.append(str(path))
