"""Ways to serve a pair of models, and how each is started on some of the machine's cores."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

import httpx

from airdraft.nodes.cli.main import distribution_version
from airdraft.nodes.worker.engines import opener_of
from bench.harness.fleet import FleetError
from bench.harness.processes import free_port, stop
from bench.harness.up import up
from bench.load.asking import Endpoint
from bench.load.versus import Side
from bench.options import model_file
from bench.results.schema import AS_IT_COMES, PLAIN

_STARTS_WITHIN_S: Final = 120.0
_STOP_LIMIT_S: Final = 10.0
# The first start with a draft tries it in a process of its own, and may make a compact copy.
_LOADS_WITHIN_S: Final = 300.0
# What this process sets for engines of its own (`set_engine_environment`), and no other server.
_OWN_VARIABLES: Final = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
# Of llama.cpp's server, whose slots divide its cache: room for a long prompt of one stream, or for
# ordinary prompts of several. With more, the memory of three servers would be short.
_LEAST_CELLS: Final = 4096
_CELLS_A_SLOT: Final = 1024


@dataclass(frozen=True, slots=True)
class Place:
    """What all ways of a cell have in common. target, draft: models by name. num_streams: requests
    that are served at a time. cpus: numbers of the CPUs to which every process is bound."""

    target: str
    draft: str
    num_streams: int
    cpus: tuple[int, ...]

    @property
    def prefix(self) -> tuple[str, ...]:
        """The command that runs another one on these CPUs alone."""
        return ("taskset", "--cpu-list", ",".join(map(str, self.cpus)))


@dataclass(frozen=True, slots=True)
class Way:
    """A way to serve. options: those of the command line, in which {draft} is the draft model,
    {cores} the number of cores, and {half} a half of them. server: llama.cpp's server; None for
    airdraft."""

    name: str
    options: str
    server: Path | None = None

    def started(self, place: Place) -> AbstractContextManager[Side]:
        """Serve until the end of the block. Raises FleetError if it does not start."""
        return _airdraft(self, place) if self.server is None else _llama(self, place)

    @property
    def shown(self) -> str:
        """Its options for a reader."""
        return self.options.format(draft="DRAFT", cores="CORES", half="HALF")

    def words(self, place: Place) -> list[str]:
        """Returns its options for a place."""
        count = len(place.cpus)
        # A toy has no file; a name of llama.cpp's server has to be one.
        draft = place.draft if self.server is None else file_of(place.draft)
        filled = {"draft": draft, "cores": count, "half": max(1, count // 2)}
        return [word.format(**filled) for word in self.options.split()]

    @property
    def version(self) -> str:
        if self.server is None:
            return f"airdraft {distribution_version('airdraft')}"
        command = [str(self.server), "--version"]
        output = subprocess.run(command, capture_output=True, text=True, check=False).stderr
        found = (line for line in output.splitlines() if line.startswith("version"))
        return f"llama.cpp's server, {next(found, 'unknown')}"


# The first one has no options, so that airdraft chooses guesses and threads.
AIRDRAFT: Final = (
    Way(AS_IT_COMES, ""),
    Way(PLAIN, "-md none --no-lookup -t {cores}"),
    Way("lookup", "-md none -t {cores}"),
    Way("in turns", "-md {draft} -t {cores}"),
    Way("beside", "-md {draft} --beside -t {half}"),
)
_LLAMA: Final = {
    "plain": "",
    "draft": "--spec-type draft-simple --model-draft {draft}",
    "ngram": "--spec-type ngram-simple",
}


def llama_ways(server: Path) -> tuple[Way, ...]:
    """Returns the modes of llama.cpp's server, which was compiled on this machine."""
    return tuple(Way(f"llama.cpp, {mode}", words, server) for mode, words in _LLAMA.items())


def file_of(model: str) -> str:
    """Returns the path of a model's file, which is pulled if it is missing; a toy's name."""
    return model if opener_of(model) else str(model_file(model))


@contextlib.contextmanager
def _airdraft(way: Way, place: Place) -> Iterator[Side]:
    words = ("--model", place.target, *way.words(place))
    with up(*words, prefix=place.prefix) as mesh:
        yield Side(way.name, Endpoint(url=mesh.url, model=""), mesh.process.pid)


def wait_for_drafts(side: Side) -> None:
    """Wait until a mesh has loaded the draft model in its target's process, or left it out.

    Raises FleetError if it takes too long.
    """
    give_up_at = time.monotonic() + _LOADS_WITHIN_S
    url = side.endpoint.url.removesuffix("/v1") + "/api/status"
    while any("is being loaded" in node["draft_why"] for node in _nodes(url)):
        if time.monotonic() > give_up_at:
            raise FleetError(f"{side.name}: the draft was not loaded in {_LOADS_WITHIN_S:.0f} s")
        time.sleep(0.5)


def _nodes(url: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = httpx.get(url, timeout=10.0, trust_env=False).json()["status"][
        "nodes"
    ]
    return found


@contextlib.contextmanager
def _llama(way: Way, place: Place) -> Iterator[Side]:
    """llama.cpp's server with all cores. Other settings are its defaults: it caches prompts."""
    port, count = free_port(), len(place.cpus)
    options = {
        "--model": file_of(place.target),
        "--host": "127.0.0.1",
        "--port": port,
        "--parallel": place.num_streams,
        "--ctx-size": max(_LEAST_CELLS, place.num_streams * _CELLS_A_SLOT),
        "--threads": count,
        "--threads-batch": count,
    }
    words = [str(word) for option in options.items() for word in option]
    command = [*place.prefix, str(way.server), *words, *way.words(place)]
    with served(way.name, command, port, health="/health") as side:
        yield side


@contextlib.contextmanager
def served(name: str, command: Sequence[str], port: int, *, health: str = "") -> Iterator[Side]:
    """Run a command that serves on a port until the end of the block.

    health: path of its health check, for a system that listens before it can serve. Raises
    FleetError if it ends first or takes too long.
    """
    quiet = subprocess.DEVNULL
    environ = {name: value for name, value in os.environ.items() if name not in _OWN_VARIABLES}
    process = subprocess.Popen(command, env=environ, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        wait_until_open(name, port, process, _STARTS_WITHIN_S, health)
        yield Side(name, Endpoint(url=f"http://127.0.0.1:{port}/v1", model="model"), process.pid)
    finally:
        stop(process, _STOP_LIMIT_S)


def wait_until_open(
    name: str, port: int, process: subprocess.Popen[bytes], limit_s: float, health: str = ""
) -> None:
    """Wait until a process listens, and is healthy if it has a health check.

    Raises FleetError if it ends first or exceeds limit_s.
    """
    url, give_up_at = f"http://127.0.0.1:{port}{health}", time.monotonic() + limit_s
    while time.monotonic() < give_up_at:
        # Any answer shows that it listens.
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(url, timeout=10.0, trust_env=False)
            if not health or answer.status_code == HTTPStatus.OK:
                return
        if process.poll() is not None:
            raise FleetError(f"{name}: exited with code {process.returncode} while starting")
        time.sleep(0.1)
    raise FleetError(f"{name}: did not listen within {limit_s:.0f} s")
