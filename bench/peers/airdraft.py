"""airdraft itself, started as its users do: `airdraft up` and the HTTP API."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from bench.harness.up import up
from bench.load.asking import Endpoint
from bench.load.versus import Side
from bench.peers.peer import Setup, draft_of
from nodes.cli.main import distribution_version


@dataclass(frozen=True, slots=True)
class Airdraft:
    """airdraft. drafts: model (the setup's draft on a node, and lookup), lookup, or none. profile:
    numerics, exact or fast. stock_kernels: use llama.cpp's kernels instead of airdraft's own.
    """

    drafts: str = "model"
    profile: str = "exact"
    stock_kernels: bool = False

    @property
    def name(self) -> str:
        what = {"model": "as planned", "lookup": "look-up only", "none": "plain"}[self.drafts]
        fast = ", fast" if self.profile == "fast" else ""
        return f"airdraft, {what}{fast}" + (", stock kernels" if self.stock_kernels else "")

    @property
    def version(self) -> str:
        return f"airdraft {distribution_version('airdraft')}"

    def missing(self) -> str:
        return ""

    @contextlib.contextmanager
    def started(self, setup: Setup) -> Iterator[Side]:
        draft = {"lookup": "ngram", "none": "none"}.get(self.drafts) or draft_of(setup, self.name)
        arguments = [
            *("--model", str(setup.target), "--draft", draft),
            *("--max-streams", str(setup.num_slots), "--threads", str(setup.num_threads)),
            *("--cells", str(setup.num_slots * setup.cells_a_slot), "--profile", self.profile),
        ]
        with up(*arguments, AIRDRAFT_KERNELS="none" if self.stock_kernels else "") as mesh:
            yield Side(self.name, Endpoint(url=mesh.url, model=""), (mesh.process.pid,))
