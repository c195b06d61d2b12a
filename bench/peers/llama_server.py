"""llama.cpp's own server from the prebuilt xllamacpp wheel (portable AVX2 code)."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.load.asking import Endpoint
from bench.load.versus import Side
from bench.peers.peer import NUM_GUESSES, PeerError, Setup, draft_of, not_installed, stop

_MODULE = "xllamacpp"
MODES = ("plain", "draft", "ngram")


@dataclass(frozen=True, slots=True)
class LlamaServer:
    """llama.cpp's server. mode: plain, draft (its own speculative decoding with the draft model) or
    ngram (its lookup of repeated text).
    """

    mode: str

    @property
    def name(self) -> str:
        return f"llama.cpp server, {self.mode}"

    @property
    def version(self) -> str:
        return "" if self.missing() else f"{_MODULE} {importlib.metadata.version(_MODULE)}"

    def missing(self) -> str:
        return not_installed(_MODULE, _MODULE)

    @contextlib.contextmanager
    def started(self, setup: Setup) -> Iterator[Side]:
        draft = draft_of(setup, self.name) if self.mode == "draft" else ""
        with llama_server(self.name, setup, self.mode, setup.target, draft) as (url, process):
            endpoint = Endpoint(url=url + "/v1", model="model", extra=(("cache_prompt", False),))
            yield Side(self.name, endpoint, (process.pid,))


@contextlib.contextmanager
def llama_server(
    name: str, setup: Setup, mode: str, model: Path, draft: str = ""
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a server with a model; yields its address and process. Raises PeerError."""
    settings = {
        "mode": mode,
        "target": str(model),
        "draft": draft,
        "num_slots": setup.num_slots,
        "num_cells": setup.num_slots * setup.cells_a_slot,
        "num_threads": setup.num_threads,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.peers.llama_server", json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # The library prints other lines, too; the address is in the line that begins "address ".
        url = next((line.split()[1] for line in process.stdout if line[:8] == b"address "), b"")
        if not url:
            raise PeerError(f"{name}: exited with code {process.wait(10)} while starting")
        yield url.decode(), process
    finally:
        process.stdin.close()
        stop(process)
        process.stdout.close()


def main(settings: dict[str, object]) -> None:
    """Serve until standard input ends."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings["target"]
    params.hostnames = ["127.0.0.1"]
    # The kernel chooses a port.
    params.port = 0
    params.n_parallel = settings["num_slots"]
    params.n_ctx = settings["num_cells"]
    params.cpuparams.n_threads = settings["num_threads"]
    params.cpuparams_batch.n_threads = settings["num_threads"]
    kinds = xllamacpp.common_speculative_type
    if settings["mode"] == "draft":
        params.speculative.draft.mparams.path = settings["draft"]
        params.speculative.draft.n_max = NUM_GUESSES
        params.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
    elif settings["mode"] == "ngram":
        params.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
    server = xllamacpp.Server(params)
    print(f"\naddress {server.listening_address}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
