"""Check that a machine's cores are free: compare the work of all at once with that of one alone.

Virtual cores may share a processor with other guests. If two do together no more than one does
alone, any process beside an engine slows it, and ratios to a system of one process show only that.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

_SECONDS = 0.25
# Share of the work that the cores would do if none was shared.
_ENOUGH = 0.8
# For each line on its input, this counts for _SECONDS and prints the count.
_LOOP = f"""
import sys, time
for _ in sys.stdin:
    end, count = time.perf_counter() + {_SECONDS}, 0
    while time.perf_counter() < end:
        count += 1
    print(count, flush=True)
"""


def cores_at_once() -> float:
    """Return how many cores' work gets done: 1 to the number of cores. Takes about a second."""
    loops = [_loop() for _ in os.sched_getaffinity(0)]
    try:
        alone = max(1, _count(loops[:1]))
        # If the single loop was disturbed, the quotient exceeds the number of cores; limit it.
        return min(max(1.0, _count(loops) / alone), float(len(loops)))
    finally:
        for loop in loops:
            loop.communicate()


def _loop() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _count(loops: list[subprocess.Popen[str]]) -> int:
    for loop in loops:
        assert loop.stdin is not None
        loop.stdin.write("go\n")
        loop.stdin.flush()
    total = 0
    for loop in loops:
        assert loop.stdout is not None
        total += int(loop.stdout.readline())
    return total


def wait_for_cores(limit_s: float = 30.0) -> bool:
    """Wait up to limit_s seconds until all cores are free; return whether they are."""
    give_up_at = time.monotonic() + limit_s
    while cores_at_once() < _ENOUGH * len(os.sched_getaffinity(0)):
        if time.monotonic() > give_up_at:
            return False
        time.sleep(1.0)
    return True
