"""Search for a word of prompts everywhere a mesh could leave traces of them."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from bench.harness.fleet import Setup, fleet
from bench.harness.report import Findings

# Joined from parts, so that no source file contains the word itself.
CANARY: Final = "".join(("kestrel", "-", "0d7e", "91", "b4"))
_LIMIT_S: Final = 120.0
_COMPLETIONS: Final = "/completions"
_CHAT: Final = "/chat/completions"
# Pages for operators.
_SHOWN: Final = ("/", "/metrics", "/api/status")


@dataclass(slots=True)
class Search(Findings):
    """Findings: the places with the word. num_files, num_pages, num_bytes: searched items."""

    num_requests: int = 0
    num_processes: int = 0
    num_files: int = 0
    num_pages: int = 0
    num_bytes: int = 0

    def summary(self) -> list[str]:
        return [
            f"{self.num_requests} requests; searched command lines and environments of "
            f"{self.num_processes} processes, {self.num_pages} pages and {self.num_files} files "
            f"({self.num_bytes} bytes)"
        ]

    def look(self, name: str, content: bytes) -> None:
        self.num_bytes += len(content)
        if CANARY.encode() in content:
            self.faults.append(name)


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


async def run_canary(target: str = "toy:1", draft: str = "toy:0.8") -> Search:
    """Search the traces of a mesh with the most detailed logs. target, draft: models.

    The mesh gets all kinds of requests, some of them aborted. Then each process is crashed.
    """
    search = Search()
    with tempfile.TemporaryDirectory() as temporary, _core_dumps_allowed():
        setup = Setup(
            num_targets=1,
            num_drafts=1,
            num_gateways=1,
            target_model=target,
            draft_model=draft,
            environ={"TMPDIR": temporary},
            fresh=True,
        )
        async with fleet(setup, starts=()) as mesh:
            for name in mesh.roles:
                await mesh.start(name, "-v", "-v")
            await mesh.is_ready("gateway-0", _LIMIT_S)
            await _ask_all(mesh.url("gateway-0"), search)
            _look_at_processes(temporary, search)
            # Crash all processes, so that anything written at a crash is searched, too.
            for name in reversed(mesh.roles):
                mesh.expect_end(name)
                mesh.process(name).signal(signal.SIGABRT)
            for name in mesh.roles:
                await mesh.process(name).ended.wait()
            for folder in (mesh.folder, Path(temporary)):
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


def _look_at_processes(mark: str, search: Search) -> None:
    """Search the processes that have a mark in their environments."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environ = (process / "environ").read_bytes()
            if mark.encode() in environ:
                search.num_processes += 1
                search.look(f"{process}/environ", environ)
                search.look(f"{process}/cmdline", (process / "cmdline").read_bytes())


def _look_at_files(folder: Path, search: Search) -> None:
    """Search logs, keys, leftover temporary files, and core dumps, which must not be."""
    for path in folder.rglob("*"):
        if path.is_file():
            search.num_files += 1
            search.look(str(path), path.read_bytes())
            if path.parent == folder and path.name.startswith("core"):
                search.faults.append(f"a core dump: {path}")
