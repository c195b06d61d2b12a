"""`python -m bench tools`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from bench.tools.asking import Answer, ask_all, calls, questions, rates


@click.command("tools")
@click.option("--model", default="qwen2.5-coder-1.5b", show_default=True, help="Of the mesh.")
@click.option("--calls", "num_calls", default=500, show_default=True, help="Required and named.")
@click.option("--streams", default=4, show_default=True, help="Asked at a time.")
@click.option(
    "--native",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="llama.cpp's server, compiled, to ask the same questions.",
)
def tools_command(model: str, num_calls: int, streams: int, native: Path | None) -> None:
    """Calls of ten functions: valid, the same with a draft and without, and the right ones.

    \b
    Example:
      python -m bench tools --calls 50
    """
    from bench.harness.up import up
    from nodes.catalog import Catalog, default_cache_dir
    from nodes.config.settings import environment

    path = Catalog(default_cache_dir(environment())).ensure(model)
    is_right, found = True, dict[str, list[Answer]]()
    for name, draft in (("with a draft", ()), ("plain", ("--draft", "none"))):
        with up("--model", model, *draft) as mesh:
            if num_calls:
                found[name] = asyncio.run(ask_all(mesh.url, model, calls(num_calls), streams))
                faults = [answer.fault for answer in found[name] if answer.fault]
                is_right &= not faults
                click.echo(f"{name}: {num_calls - len(faults)} of {num_calls} calls valid")
                click.echo("".join(f"  {fault}\n" for fault in faults[:20]), nl=False)
            if not draft:
                _tell_rates(mesh.url, model)
                _tell_choices("airdraft", mesh.url, model, streams)
    if len(found) == 2:
        pairs = zip(*found.values(), strict=True)
        num_same = sum(one.calls == other.calls for one, other in pairs)
        is_right &= num_same == num_calls
        click.echo(f"{num_same} of {num_calls} the same with a draft and without")
    if native is not None:
        with _native(native, path) as url:
            _tell_choices("llama.cpp's server", url, "model", streams)
    sys.exit(not is_right)


def _tell_rates(url: str, model: str) -> None:
    with_tools, without = asyncio.run(rates(url, model))
    click.echo(
        f"free text: {with_tools:.1f} tokens/s beside tools, {without:.1f} of plain text: "
        f"{with_tools / without:.2f}"
    )


def _tell_choices(name: str, url: str, model: str, streams: int) -> None:
    asked = questions()
    answers = asyncio.run(ask_all(url, model, asked, streams))
    pairs = list(zip(asked, answers, strict=True))
    num_right = sum(answer.name == case.wanted for case, answer in pairs)
    num_meant = sum(answer.meant == case.wanted for case, answer in pairs)
    click.echo(
        f"{name}: the right function in {num_right} of {len(pairs)} cases, in {num_meant} if calls "
        "in the text count"
    )
    wrong = [(case, answer) for case, answer in pairs if answer.meant != case.wanted]
    for case, answer in wrong:
        click.echo(f"  {case.wanted}, not {answer.meant}: {case.text}")


@contextlib.contextmanager
def _native(binary: Path, model: Path) -> Iterator[str]:
    from bench.peers.native_server import NativeServer
    from bench.peers.peer import Setup

    setup = Setup(target=model, draft=None, num_slots=1, cells_a_slot=8192, num_threads=2)
    with NativeServer(binary).started(setup) as running:
        yield running.endpoint.url
