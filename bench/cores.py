"""Check that a machine's cores are free: compare the work of all at once with that of one alone.

Virtual cores may share a processor with other guests. If two do together no more than one does
alone, any process beside an engine slows it, and ratios to a system of one process show only that.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

_SECONDS = 0.25
# Share of the work that the cores would do if none was shared.
_ENOUGH = 0.8
# Prints a line once it runs, counts for _SECONDS after a line on its input, and prints the count.
_LOOP = f"""
import sys, time
print(flush=True)
sys.stdin.readline()
end, count = time.perf_counter() + {_SECONDS}, 0
while time.perf_counter() < end:
    count += 1
print(count)
"""


def count_at_once(num_processes: int) -> int:
    """Return what processes that count at the same time have counted in all."""
    loops = [
        subprocess.Popen(
            [sys.executable, "-c", _LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(num_processes)
    ]
    for loop in loops:
        # Starting takes longer than counting on a busy machine, and not equally long.
        assert loop.stdout is not None
        loop.stdout.readline()
    for loop in loops:
        assert loop.stdin is not None
        print("go", file=loop.stdin, flush=True)
    return sum(int(loop.communicate()[0]) for loop in loops)


def cores_at_once(num_cores: int = 0, count: Callable[[int], int] = count_at_once) -> float:
    """Return how many cores' work gets done: 1 to the number of cores. Takes about a second.

    num_cores: 0 for all that this process may use.
    """
    num_cores = num_cores or len(os.sched_getaffinity(0))
    alone = max(1, count(1))
    # If the single loop was disturbed, the quotient exceeds the number of cores; limit it.
    return min(max(1.0, count(num_cores) / alone), float(num_cores))


def wait_for_cores(limit_s: float = 30.0, seen: Callable[[], float] = cores_at_once) -> bool:
    """Wait up to limit_s seconds until all cores are free; return whether they are."""
    give_up_at = time.monotonic() + limit_s
    while seen() < _ENOUGH * len(os.sched_getaffinity(0)):
        if time.monotonic() > give_up_at:
            return False
        time.sleep(1.0)
    return True
