"""Check that a machine's cores are free: compare the work of all at once with that of one alone.

Virtual cores may share a processor with other guests. If two do together no more than one does
alone, any process beside an engine slows it, and ratios to a system of one process show only that.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier

import numpy as np

_SECONDS = 0.25
# Share of the work that the cores would do if none was shared.
_ENOUGH = 0.8
_forking = multiprocessing.get_context("forkserver")


def count_at_once(num_processes: int) -> int:
    """Returns what processes that count at the same time have counted in all."""
    # Starting takes longer than counting on a busy machine, and not equally long.
    all_run = _forking.Barrier(num_processes)
    counts: SimpleQueue[int] = _forking.SimpleQueue()
    loops = [
        _forking.Process(target=count_once_all_run, args=(all_run, counts))
        for _ in range(num_processes)
    ]
    for loop in loops:
        loop.start()
    found = sum(counts.get() for _ in loops)
    for loop in loops:
        loop.join()
    return found


def count_once_all_run(all_run: Barrier, counts: SimpleQueue[int]) -> None:
    """Put into the queue what this process has counted since all have come to the barrier."""
    all_run.wait()
    end, count = time.perf_counter() + _SECONDS, 0
    while time.perf_counter() < end:
        count += 1
    counts.put(count)


def cores_at_once(num_cores: int = 0, count: Callable[[int], int] = count_at_once) -> float:
    """Returns how many cores' work gets done: 1 to the number of cores. Takes about a second.

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


# Larger than any cache that one guest of a server uses for itself.
_READ_BYTES = 1 << 30


def read_bytes_per_s(num_threads: int) -> float:
    """Returns how many bytes per second threads read from memory together: the best of three."""
    words = np.ones(_READ_BYTES // 8, np.int64)
    parts = np.array_split(words, num_threads)
    took_s = []
    with ThreadPoolExecutor(num_threads) as threads:
        for _ in range(3):
            began = time.perf_counter()
            # numpy computes sums without holding the interpreter's lock.
            list(threads.map(np.sum, parts))
            took_s.append(time.perf_counter() - began)
    return words.nbytes / min(took_s)
