"""llama.cpp's own server as its users compile it, for all features of this processor."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path

from bench.load.asking import Endpoint
from bench.peers.peer import PeerError, Running, Setup, free_port, serving

_START_LIMIT_S = 120.0
_NUM_GUESSES = 4


@dataclass(frozen=True, slots=True)
class NativeServer:
    """A compiled llama.cpp server. All settings but the mode are defaults, so it caches prompts."""

    binary: Path
    mode: str = "plain"

    @property
    def name(self) -> str:
        return f"llama.cpp server, native, {self.mode}"

    @property
    def version(self) -> str:
        command = [str(self.binary), "--version"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        return next((line for line in output.splitlines() if line.startswith("version")), "")

    def missing(self) -> str:
        return ""

    @contextlib.contextmanager
    def started(self, setup: Setup) -> Iterator[Running]:
        if self.mode == "draft" and setup.draft is None:
            raise PeerError(f"{self.name}: needs a draft model")
        port = free_port()
        options = {
            "--model": str(setup.target),
            "--host": "127.0.0.1",
            "--port": port,
            "--parallel": setup.num_slots,
            "--ctx-size": setup.num_slots * setup.cells_a_slot,
            "--threads": setup.num_threads,
            "--threads-batch": setup.num_threads,
        }
        if self.mode == "ngram":
            options["--spec-type"] = "ngram-simple"
        if self.mode == "draft":
            options |= {
                "--model-draft": str(setup.draft),
                "--spec-type": "draft-simple",
                "--spec-draft-n-max": _NUM_GUESSES,
            }
        command = [str(self.binary), *(str(part) for item in options.items() for part in item)]
        with serving(self.name, command, port, _START_LIMIT_S) as pid:
            # The server listens before the model is loaded.
            give_up_at = time.monotonic() + _START_LIMIT_S
            while _health(port) != HTTPStatus.OK:
                if time.monotonic() > give_up_at:
                    raise PeerError(f"{self.name}: not ready within {_START_LIMIT_S:.0f} s")
                time.sleep(0.1)
            yield Running(Endpoint(url=f"http://127.0.0.1:{port}/v1", model="model"), (pid,))


def _health(port: int) -> int:
    """Return the HTTP status of the server's health check."""
    with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=_START_LIMIT_S)) as asking:
        asking.request("GET", "/health")
        return asking.getresponse().status
