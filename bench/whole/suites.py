"""Which suites a whole run has: each is a command of its own, in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Suite:
    """module: what `python -m` gets, but for `--quick` and `--out FILE`. quick_module: what it gets
    instead where the whole run is quick; "" for the same with `--quick`.
    """

    module: Sequence[str]
    quick_module: str = ""

    def arguments(self, *, is_quick: bool) -> list[str]:
        if not is_quick:
            return list(self.module)
        return [self.quick_module] if self.quick_module else [*self.module, "--quick"]


# Quick ones first, so that much is there soon.
SUITES: Mapping[str, Suite] = {
    "engine": Suite(("bench", "engine")),
    "planner": Suite(("bench", "planner")),
    "cost": Suite(("bench", "cost")),
    # Its own quick run alone takes three minutes.
    "peers": Suite(("bench", "peers"), "bench.whole.few_peers"),
    "machine": Suite(("bench", "live", "machine")),
    "edge": Suite(("bench", "live", "edge")),
    "scale": Suite(("bench", "live", "scale")),
    "sim": Suite(("bench", "sim")),
    "growth": Suite(("bench", "scale")),
}
