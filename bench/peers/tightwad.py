"""Tightwad (a package of the registry): a proxy that drafts on one server and verifies on another.

It is started as its documentation describes, over two llama.cpp servers on loopback.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench.load.asking import Endpoint
from bench.load.versus import Side
from bench.peers.llama_server import LlamaServer, llama_server
from bench.peers.peer import Setup, draft_of, free_port, not_installed, serving
from bench.peers.tokens import token_counter

_MODULE = "tightwad"
_START_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Tightwad:
    """Tightwad with drafts of at most eight tokens, its default."""

    name: str = "tightwad"

    @property
    def version(self) -> str:
        return "" if self.missing() else f"{_MODULE} {importlib.metadata.version(_MODULE)}"

    def missing(self) -> str:
        return not_installed(_MODULE, self.name) or LlamaServer("plain").missing()

    @contextlib.contextmanager
    def started(self, setup: Setup) -> Iterator[Side]:
        draft_model = Path(draft_of(setup, self.name))
        # Its loop uses only slot 0 of the target for all requests; the draft also gets one slot.
        one = replace(setup, num_slots=1)
        with contextlib.ExitStack() as stack:
            draft = stack.enter_context(llama_server(self.name, one, "plain", draft_model))
            target = stack.enter_context(llama_server(self.name, setup, "plain", setup.target))
            port = free_port()
            environ = {
                "TIGHTWAD_DRAFT_URL": draft[0],
                "TIGHTWAD_TARGET_URL": target[0],
                "TIGHTWAD_DRAFT_BACKEND": "llamacpp",
                "TIGHTWAD_TARGET_BACKEND": "llamacpp",
                "TIGHTWAD_HOST": "127.0.0.1",
                "TIGHTWAD_PORT": str(port),
            }
            command = [sys.executable, "-m", "bench.peers.tightwad"]
            running = serving(self.name, command, port, _START_LIMIT_S, environ=environ)
            pid = stack.enter_context(running)
            # It counts words as tokens, and stops at an end-of-text token despite ignore_eos.
            endpoint = Endpoint(
                url=f"http://127.0.0.1:{port}/v1",
                model="target",
                count=token_counter(setup.target),
                may_end_early=True,
            )
            yield Side(self.name, endpoint, (pid, draft[1].pid, target[1].pid))


def main() -> None:
    """Run its command `tightwad proxy start` with this interpreter."""
    from tightwad.cli import cli

    cli(["proxy", "start"])


if __name__ == "__main__":
    main()
