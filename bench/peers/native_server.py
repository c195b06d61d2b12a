"""llama.cpp's own server as its users compile it, for all features of this processor."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.load.asking import Endpoint
from bench.load.versus import Side
from bench.peers.peer import NUM_GUESSES, Setup, draft_of, free_port, serving

_START_LIMIT_S = 120.0


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
    def started(self, setup: Setup) -> Iterator[Side]:
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
                "--model-draft": draft_of(setup, self.name),
                "--spec-type": "draft-simple",
                "--spec-draft-n-max": NUM_GUESSES,
            }
        command = [str(self.binary), *(str(part) for item in options.items() for part in item)]
        with serving(self.name, command, port, _START_LIMIT_S, health="/health") as pid:
            endpoint = Endpoint(url=f"http://127.0.0.1:{port}/v1", model="model")
            yield Side(self.name, endpoint, (pid,))
