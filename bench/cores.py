"""Whether a machine's cores are there: what all of them do at once, beside one of them alone.

Virtual ones may share a processor with other guests. Where two do together what one does alone,
whatever runs beside an engine slows it, and a ratio to something that has one process says as much.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

_SECONDS = 0.25
# Of what they would do if none was shared.
_ENOUGH = 0.8
# Counts for that long once a line comes in, and says how far it came.
_LOOP = f"""
import sys, time
for _ in sys.stdin:
    end, count = time.perf_counter() + {_SECONDS}, 0
    while time.perf_counter() < end:
        count += 1
    print(count, flush=True)
"""


def cores_at_once() -> float:
    """Between 1 and the number of cores of this process; takes about a second."""
    loops = [_loop() for _ in os.sched_getaffinity(0)]
    try:
        alone = max(1, _count(loops[:1]))
        # What disturbs the one alone makes no more cores than there are.
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
    """Whether all cores are there, for which it waits some time."""
    give_up_at = time.monotonic() + limit_s
    while cores_at_once() < _ENOUGH * len(os.sched_getaffinity(0)):
        if time.monotonic() > give_up_at:
            return False
        time.sleep(1.0)
    return True
