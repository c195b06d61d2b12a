"""Suites in processes of their own, one after the other: what ends one of them ends no other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.results.making import merged, result_of
from bench.results.schema import ResultError, Results, from_json
from bench.whole.suites import Suite

_ROOT = Path(__file__).parents[2]
# Of one suite. A quick run of all takes three minutes where nothing else runs.
_QUICK_LIMIT_S = 900.0
_FULL_LIMIT_S = 12 * 3600.0
# What is left in a pipe after its process ended, and what a process takes to end when it is told.
_DRAIN_LIMIT_S = 2.0
_END_LIMIT_S = 10.0
_LONGEST_LINE = 1 << 20
Report = Callable[[str], None]


def run_suites(
    suites: Mapping[str, Suite],
    folder: Path,
    *,
    is_quick: bool,
    report: Report,
    limit_s: float = 0.0,
) -> tuple[Results, list[str]]:
    """All of them, their results as one, and a line for each that failed.

    A suite fails when its harness does: a process that ends with another code than 0, takes longer
    than limit_s (0: what is usual), or leaves no result. How fast anything was makes none fail.
    folder: one that exists, in which each suite leaves its own result.
    """
    limit_s = limit_s or (_QUICK_LIMIT_S if is_quick else _FULL_LIMIT_S)
    found, failures = [], []
    for name, suite in suites.items():
        arguments = suite.arguments(is_quick=is_quick)
        path = folder.absolute() / f"{name}.json"
        path.unlink(missing_ok=True)
        report(f"== {name}: python -m {' '.join(arguments)}")
        failure = asyncio.run(_failure_of([*arguments, "--out", str(path)], limit_s, report))
        try:
            found.append(from_json(path.read_text(encoding="utf-8")))
        except (OSError, ResultError, UnicodeDecodeError):
            failure = failure or "left no result"
        if failure:
            failures.append(f"{name} failed: {failure}")
    base = result_of((), skipped=failures, is_quick=is_quick)
    return merged(base, *found), failures


async def _failure_of(arguments: Sequence[str], limit_s: float, report: Report) -> str:
    """Run a module whose lines are passed on as they come; why it failed in a line, "" if not."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=_ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # It is ended with all that it has started, where it has to be.
        start_new_session=True,
        limit=_LONGEST_LINE,
    )
    assert process.stdout is not None
    last = ""

    async def read(stream: asyncio.StreamReader) -> None:
        nonlocal last
        async for data in stream:
            line = data.decode(errors="replace").rstrip()
            report(line)
            last = line.strip() or last

    reading = asyncio.create_task(read(process.stdout))
    try:
        await asyncio.wait_for(process.wait(), limit_s)
        await asyncio.wait({reading}, timeout=_DRAIN_LIMIT_S)
    except TimeoutError:
        return f"not done after {limit_s:g} s"
    finally:
        await _end(process)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    code = process.returncode
    return f"ended with code {code}: {last or 'it said nothing'}" if code else ""


async def _end(process: asyncio.subprocess.Process) -> None:
    """With all of its session that is left."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            break
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _END_LIMIT_S)
