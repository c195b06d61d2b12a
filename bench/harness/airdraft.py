"""The command `airdraft` with emulated nodes and fail points, which only tests and benches use.

`python -m bench.harness.airdraft` takes the arguments of `python -m nodes.cli`. A model may also be
`replay:FILE.toml`, AIRDRAFT_FAILPOINT makes the process fail on purpose, and upon SIGUSR1 it prints
counts that grow if something leaks.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from types import FrameType

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
    signal.signal(signal.SIGUSR1, _print_figures)
    airdraft()


def _print_figures(_number: int, _frame: FrameType | None) -> None:
    """Print one line with what this process holds; its event loop must run."""
    gc.collect()
    tasks, threads = len(asyncio.all_tasks()), threading.enumerate()
    # The event loop's own pool may grow up to its limit without a leak, so it has its own count.
    num_pooled = sum(thread.name.startswith("asyncio_") for thread in threads)
    print(
        f"figures: {tasks} tasks, {num_pooled} threads of the pool, "
        f"{len(gc.get_objects())} objects",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    main()
