"""The command `airdraft` with emulated nodes and fail points, which only tests and benches use.

`python -m bench.harness.airdraft` takes the arguments of `python -m nodes.cli`. A model may also be
`replay:FILE.toml`, and AIRDRAFT_FAILPOINT makes the process fail on purpose.
"""

from __future__ import annotations

import os
import sys

from bench.emulate import replay
from bench.harness import failpoints
from nodes.cli.main import main as airdraft
from nodes.service import supervision
from nodes.service.runtime import EXIT_CONFIG
from nodes.worker.engines import OPENERS


def register() -> None:
    """Let this process open emulated nodes, and let the nodes that it starts run this program."""
    OPENERS[replay.PREFIX] = replay.open_engine
    supervision.program = "bench.harness.airdraft"


def main() -> None:
    register()
    if value := os.environ.get(failpoints.VARIABLE, ""):
        try:
            failpoints.arm(value)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(EXIT_CONFIG)
        print(f"warning: the fail point {value} is on: it fails on purpose", file=sys.stderr)
    airdraft()


if __name__ == "__main__":
    main()
