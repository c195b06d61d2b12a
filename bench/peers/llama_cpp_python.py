"""llama-cpp-python's own server: one request at a time, plainly or with prompt lookup."""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from bench.load.asking import Endpoint
from bench.load.versus import Side
from bench.peers.peer import NUM_GUESSES, PeerError, Setup, free_port, not_installed, serving
from bench.peers.tokens import ends_of

_START_LIMIT_S = 60.0
# The server has no ignore_eos. This bias makes end-of-text tokens impossible, with the same effect.
_NEVER = -100


@dataclass(frozen=True, slots=True)
class LlamaCppPython:
    """llama-cpp-python. mode: plain, or lookup (prompt lookup, its only kind of drafts)."""

    mode: str

    @property
    def name(self) -> str:
        return f"llama-cpp-python, {self.mode}"

    @property
    def version(self) -> str:
        return f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}"

    def missing(self) -> str:
        return not_installed("sse_starlette", "its server")

    @contextlib.contextmanager
    def started(self, setup: Setup) -> Iterator[Side]:
        if setup.num_slots > 1:
            raise PeerError(f"{self.name}: serves one request at a time")
        port = free_port()
        options = {
            "model": setup.target,
            "host": "127.0.0.1",
            "port": port,
            "n_ctx": setup.cells_a_slot,
            "n_threads": setup.num_threads,
            "n_threads_batch": setup.num_threads,
            "interrupt_requests": False,
        }
        if self.mode == "lookup":
            options["draft_model"] = "prompt-lookup-decoding"
            options["draft_model_num_pred_tokens"] = NUM_GUESSES
            # Without this, long outputs with drafts crash the server.
            options["logits_all"] = True
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "llama_cpp.server", *arguments]
        with serving(self.name, command, port, _START_LIMIT_S) as pid:
            bias = {str(token_id): _NEVER for token_id in ends_of(setup.target)}
            extra = (("logit_bias", bias),)
            endpoint = Endpoint(url=f"http://127.0.0.1:{port}/v1", model="model", extra=extra)
            yield Side(self.name, endpoint, (pid,))
