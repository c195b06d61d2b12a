"""`python -m bench agent`: a coding agent's prompt, cold, in the next turn, and after a restart.

The prompt is this project's own source with some tools. Beside it llama.cpp's server with as many
threads, which saves and restores its slot when it is told to.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import httpx

from bench.equal_cores.ways import served
from bench.harness.processes import ROOT, cpu_s, free_port, tree
from bench.harness.up import up
from bench.options import at_least, listed, model_file, target_option

_LIMIT_S: Final = 3600.0
# A token of source has some four characters; the rest is for tools and turns.
_CHARS_A_TOKEN: Final = 3.8
_ANSWER_TOKENS: Final = 24
_TOOLS: Final = tuple(
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{name.replace('_', ' ').capitalize()} of the repository.",
            "parameters": {
                "type": "object",
                "properties": {"path": {"type": "string"}, "text": {"type": "string"}},
                "required": ["path"],
            },
        },
    }
    for name in ("read_file", "write_file", "list_files", "search_text", "run_tests", "show_diff")
)
_QUESTIONS: Final = (
    "What is the module of errors for? Answer in one sentence.",
    "And the one of models?",
)


@dataclass(frozen=True, slots=True)
class Told:
    """An answer. num_prompt, num_cached: tokens, as the server tells them."""

    text: str
    first_s: float
    num_prompt: int
    num_cached: int


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs. save: waits until the text is on the disk. restore: has it read."""

    url: str
    pid: int
    save: Callable[[], None]
    restore: Callable[[], None]


def conversation(num_tokens: int) -> list[dict[str, Any]]:
    """Returns the first turn, whose system prompt has about so many tokens."""
    files = sorted((ROOT / "nodes").rglob("*.py"))
    source = "".join(f"# {path.relative_to(ROOT)}\n{path.read_text()}" for path in files)
    tools = json.dumps(_TOOLS, indent=1)
    system = f"You are a coding agent with these tools:\n{tools}\nThese are the files:\n{source}"
    system = system[: int(_CHARS_A_TOKEN * num_tokens)]
    return [{"role": "system", "content": system}, {"role": "user", "content": _QUESTIONS[0]}]


def ask(url: str, messages: list[dict[str, Any]]) -> Told:
    """Returns the answer to a conversation, greedy."""
    body = {
        "model": "",
        "messages": messages,
        "max_tokens": _ANSWER_TOKENS,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first_s, text, usage = time.perf_counter(), 0.0, "", dict[str, Any]()
    with httpx.stream("POST", f"{url}/chat/completions", json=body, timeout=_LIMIT_S) as answer:
        if answer.status_code != httpx.codes.OK:
            raise click.ClickException(f"{url}: {answer.read().decode(errors='replace')[:200]}")
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            told = json.loads(line.removeprefix("data: "))
            usage = told.get("usage") or usage
            for choice in told["choices"]:
                piece = choice["delta"].get("content") or ""
                first_s = first_s or (time.perf_counter() - began if piece else 0.0)
                text += piece
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return Told(text, first_s, usage["prompt_tokens"], cached)


@contextlib.contextmanager
def airdraft(path: Path, threads: int, cells: int, folder: Path) -> Iterator[Server]:
    # A mesh with a socket that a single user can reach: its gateway's texts are kept.
    words = "--model", str(path), "-t", str(threads), "-c", str(cells), "-md", "none"
    cache = str(folder / "cache")
    with up(*words, listen=f"ipc://{folder}/mesh", AIRDRAFT_CACHE=cache) as mesh:

        def save() -> None:
            give_up_at = time.monotonic() + 60.0
            while not list(folder.glob("cache/prefixes/*/*.prefix")):
                if time.monotonic() > give_up_at:
                    raise click.ClickException("no text was written")
                time.sleep(0.5)

        yield Server(mesh.url, mesh.process.pid, save, lambda: None)


@contextlib.contextmanager
def llama_server(
    binary: Path, path: Path, threads: int, cells: int, folder: Path
) -> Iterator[Server]:
    port = free_port()
    words = f"--host 127.0.0.1 --port {port} --threads {threads} --ctx-size {cells} --parallel 1"
    command = [str(binary), "--model", str(path), "--slot-save-path", str(folder), *words.split()]
    with served("llama.cpp", command, port, health="/health") as side:

        def slot(action: str) -> None:
            url = f"http://127.0.0.1:{port}/slots/0?action={action}"
            httpx.post(url, json={"filename": "slot"}, timeout=_LIMIT_S).raise_for_status()

        yield Server(
            f"http://127.0.0.1:{port}/v1", side.pid, lambda: slot("save"), lambda: slot("restore")
        )


@click.command("agent")
@target_option
@click.option("--tokens", type=listed(int), default="15000", help="Tokens of the system prompt.")
@at_least("--threads", len(os.sched_getaffinity(0)), "Threads of each server.")
@click.option(
    "--llama-server",
    "binary",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Compiled here (bench/METHODOLOGY.md).",
)
def agent_command(target: str, tokens: list[int], threads: int, binary: Path | None) -> None:
    """Time the first token of an agent's prompt: cold, in its next turn, and after a restart.

    \b
    Example:
      python -m bench agent --target qwen2.5-coder-1.5b --llama-server build/bin/llama-server
    """
    path = Path(model_file(target))
    click.echo("way | prompt, tokens | ask | first token, s | cached | CPU, s | text as at first")
    for num_tokens in tokens:
        size = path, threads, 2 * num_tokens
        with tempfile.TemporaryDirectory() as folder:
            _measure("airdraft", num_tokens, partial(airdraft, *size, Path(folder)))
        if binary is not None:
            with tempfile.TemporaryDirectory() as folder:
                start = partial(llama_server, binary, *size, Path(folder))
                _measure("llama.cpp", num_tokens, start)


def _measure(
    way: str, num_tokens: int, start: Callable[[], contextlib.AbstractContextManager[Server]]
) -> None:
    first = conversation(num_tokens)

    def tell(server: Server, what: str, messages: list[dict[str, Any]], expected: str) -> Told:
        before = cpu_s(tree(server.pid))
        found = ask(server.url, messages)
        same = "" if not expected else "yes" if found.text == expected else "no"
        click.echo(
            f"{way} | {found.num_prompt} | {what} | {found.first_s:.2f} | {found.num_cached} "
            f"| {cpu_s(tree(server.pid)) - before:.1f} | {same}"
        )
        return found

    with start() as server:
        cold = tell(server, "cold", first, "")
        answer = {"role": "assistant", "content": cold.text}
        second = [*first, answer, {"role": "user", "content": _QUESTIONS[1]}]
        again = tell(server, "next turn", second, "")
        server.save()
    with start() as server:
        server.restore()
        tell(server, "after a restart", first, cold.text)
        tell(server, "its next turn", second, again.text)
