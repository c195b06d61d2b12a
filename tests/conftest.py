"""Every test fails that leaves asyncio tasks, threads, sockets or pipes behind."""

import asyncio
import contextlib
import gc
import inspect
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.request import getproxies

import pytest
from hypothesis import HealthCheck, settings

from tests.allowed_skips import unexpected
from tests.slow import is_left_out, mark_slow, no_processes

__all__ = ["no_processes"]

# For what comes soon on an idle machine. Only a test that fails waits as long.
_LIMIT_S = 60.0
_WATCHED_FDS = ("socket:", "pipe:", "anon_inode:")

# How long an example takes to make or to run says more of the machine than of the code.
settings.register_profile("airdraft", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("airdraft")


def pytest_configure() -> None:
    """Make what processes of tests inherit the same wherever tests are started.

    A shell that starts them in the background ignores SIGINT, which some of them are sent. A proxy
    of the environment does not reach gateways on this machine.
    """
    os.environ["no_proxy"] = f"127.0.0.1,::1,localhost,{getproxies().get('no', '')}"
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return is_left_out(collection_path, config) or None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_slow(items)
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function):
            # Inside the fixture for threads, which must look after the event loop has ended.
            names = item.fixturenames
            names.insert(names.index("no_leaked_threads_and_fds") + 1, "no_leaked_tasks")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where a test was skipped for a reason that tests/allowed_skips.py does not have."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput"):
        return
    reports = reporter.stats.get("skipped", [])
    reasons = [each.longrepr[2] for each in reports if isinstance(each.longrepr, tuple)]
    if found := unexpected(reasons):
        reporter.write_line(f"skipped for no reason of tests/allowed_skips.py: {found}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
async def no_leaked_tasks() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    own = asyncio.current_task()
    leaked = [t for t in asyncio.all_tasks() - before if t is not own and not t.done()]
    for task in leaked:
        task.cancel()
    await asyncio.gather(*leaked, return_exceptions=True)
    assert not leaked, f"leaked tasks: {leaked}"


@pytest.fixture(autouse=True)
def no_leaked_threads_and_fds() -> Iterator[None]:
    threads_before = set(threading.enumerate())
    fds_before = _open_fds()
    yield

    def leaks() -> list[str]:
        threads = [t for t in threading.enumerate() if t not in threads_before and not t.daemon]
        return [*map(repr, threads), *sorted(_open_fds() - fds_before)]

    # Threads and ZeroMQ's file descriptors end a moment after they were told to.
    give_up_at = time.monotonic() + _LIMIT_S
    while (left := leaks()) and time.monotonic() < give_up_at:
        gc.collect()
        time.sleep(0.01)
    assert not left, f"leaked: {left}"


@pytest.fixture
def eventually() -> Callable[..., object]:
    """Wait for a condition with a limit: `await eventually(lambda: queue.empty())`."""

    async def wait(condition: Callable[[], object], limit_s: float = _LIMIT_S) -> None:
        give_up_at = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < give_up_at, "the condition did not come true in time"
            await asyncio.sleep(0.002)

    return wait


def _open_fds() -> set[str]:
    """Sockets, pipes and event descriptors by what they point to; empty where /proc is not."""
    found: set[str] = set()
    with contextlib.suppress(FileNotFoundError):
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                target = os.readlink(f"/proc/self/fd/{fd}")
                if target.startswith(_WATCHED_FDS):
                    found.add(f"fd {fd} {target}")
    return found
