"""Start, serve, stop: the frame every process of airdraft runs in."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import NoReturn

from mesh import failpoints
from mesh.errors import EndpointError, InsecureEndpointError, KeysError, MeshError
from mesh.messages import (
    DISMISSED,
    MAX_TAG,
    NOT_ALLOWED,
    OTHER_PROTOCOL,
    UNSUITABLE,
    spec_of_tag,
)
from nodes.api.errors import AirdraftError, ConnectError
from nodes.catalog import CatalogError, ModelNameError
from nodes.client.client import RequestFailedError
from nodes.config.settings import ConfigError, environment
from nodes.engine.protocol import EngineError
from nodes.service.journald import JournalFormatter, is_journal
from nodes.service.manager import Manager
from nodes.worker.link import LostCoordinatorError, NoCoordinatorError, RefusedError

logger = logging.getLogger(__name__)

# From 64 to 78 as in sysexits.h. docs/reference/exit-codes.md says what a supervisor does then.
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 69
EXIT_PROTOCOL = 76
EXIT_NO_PERMISSION = 77
EXIT_CONFIG = 78
EXIT_DISMISSED = 79
STOP_LIMIT_S = 10.0

# Why the coordinator refuses a member: codes of Refuse.
_REFUSALS = {
    DISMISSED: EXIT_DISMISSED,
    OTHER_PROTOCOL: EXIT_PROTOCOL,
    NOT_ALLOWED: EXIT_NO_PERMISSION,
    UNSUITABLE: EXIT_CONFIG,
}

# What a user can cause or must know; each is one line without a traceback.
_EXPECTED = (
    MeshError,
    EngineError,
    CatalogError,
    RequestFailedError,
    ConfigError,
    AirdraftError,
    OSError,
)


# What must be done even where there is no time for the stop phase.
_last_acts: list[Callable[[], None]] = []


class StoppedError(Exception):
    """A signal asked the process to stop."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number


def set_engine_environment() -> None:
    """Make libgomp's threads spin for a moment only; must come before anything loads it.

    Threads that spin for long beside another busy process cost a factor of 20 to 40. Without any
    spinning two threads take longer for a single token than one. Of a 1.5B model in Q4_K_M on two
    free cores (2-core AMD EPYC), ms a pass of one token by count: 0: 101, 1,000: 66, 10,000: 44,
    100,000: 46; one thread: 75.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def hold_standard_files() -> None:
    """Give the numbers 0 to 2 to nothing where they are closed: a socket that got one of them would
    be sent what libraries say."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest that is free.
            os.open(os.devnull, os.O_RDWR)
    # Python has no streams for those that were closed when it started.
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def let_go_of_stderr() -> None:
    """A log that could not be written must not change the exit code, which Python would do."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.stderr = None


def raise_file_limit() -> None:
    """As many open files as this process may have: each peer takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def forbid_core_dumps() -> None:
    """A process that crashes must leave no prompts, texts or keys on a disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def set_up_logging(verbose: int) -> None:
    """Log to standard error: lines for people, or for journald where that is what reads it."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = logging.StreamHandler(sys.stderr)
    if is_journal(environment(), sys.stderr):
        handler.setFormatter(JournalFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def run(
    main: Callable[[], Awaitable[None]],
    *,
    is_service: bool = False,
    stop_limit_s: float = STOP_LIMIT_S,
) -> int:
    """Run a role to its end; returns the exit code and prints at most one line of error.

    is_service: it has no end of its own, so that SIGTERM is one in good order. stop_limit_s: for
    the stop phase, after which the process is ended.
    """
    forbid_core_dumps()
    try:
        arm_fail_point()
        if is_service:
            _spare_collector()
        asyncio.run(_until_signal(main, stop_limit_s))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:  # noqa: BLE001 - the one place that turns failures into exit codes
        cause = first_cause(error)
        if is_service and isinstance(cause, StoppedError) and cause.signal_number == signal.SIGTERM:
            return 0
        return report(error)
    return 0


def arm_fail_point() -> None:
    """Let this process fail where its environment says. Raises ConfigError."""
    value = environment().get(failpoints.VARIABLE, "")
    if not value:
        return
    specs = [spec_of_tag(tag) for tag in range(1, MAX_TAG + 1)]
    try:
        failpoints.arm(value, {spec.layout.cls.__name__ for spec in specs if spec is not None})
    except ValueError as error:
        raise ConfigError(str(error)) from None
    logger.warning("the fail point %s is on: this process is there to fail", value)


@contextlib.contextmanager
def last_act(act: Callable[[], None]) -> Iterator[None]:
    """Have something done if the process is ended at once inside this; it must not wait long."""
    _last_acts.append(act)
    try:
        yield
    finally:
        _last_acts.remove(act)


def end_at_once(code: int) -> NoReturn:
    """End the process without a stop phase; only the last acts are done."""
    for act in reversed(_last_acts):
        with contextlib.suppress(Exception):
            act()
    os._exit(code)


def report(error: BaseException) -> int:
    """Print an error as one line, or as a traceback if it is our own fault; the exit code."""
    cause = first_cause(error)
    if isinstance(cause, StoppedError):
        return cause.exit_code
    if isinstance(cause, _EXPECTED):
        # Where errors cannot be told any more, the exit code does.
        with contextlib.suppress(OSError):
            print(f"error: {_line_of(cause)}", file=sys.stderr)
        return _exit_code(cause)
    logger.error("internal error", exc_info=error)
    return EXIT_FAILURE


def _exit_code(error: Exception) -> int:
    match error:
        case ConfigError() | EndpointError() | InsecureEndpointError() | KeysError():
            return EXIT_CONFIG
        case ModelNameError():
            return EXIT_USAGE
        case RefusedError():
            return _REFUSALS.get(error.code, EXIT_FAILURE)
        case NoCoordinatorError() | LostCoordinatorError():
            return EXIT_UNAVAILABLE
        case ConnectError(__cause__=Exception() as cause):
            return _exit_code(cause)
    return EXIT_FAILURE


def _line_of(error: BaseException) -> str:
    """What the system refused is named by its path, not by its number."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def first_cause(error: BaseException) -> BaseException:
    """The first failure inside nested exception groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _spare_collector() -> None:
    """Take what has been imported out of what garbage is looked for in.

    A full collection takes 10 to 20 ms for these 40,000 objects alone, in which no message is read.
    """
    gc.collect()
    gc.freeze()


async def _until_signal(main: Callable[[], Awaitable[None]], stop_limit_s: float) -> None:
    """Serve until main ends or a signal comes; a second signal exits at once."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main())
    stopped: list[int] = []

    def on_signal(number: int) -> None:
        if stopped:
            end_at_once(128 + number)
        stopped.append(number)
        Manager(environment()).stopping(stop_limit_s)
        task.cancel()
        # Whatever hangs in the stop phase must not outlive its limit.
        timer = threading.Timer(stop_limit_s, end_at_once, (128 + number,))
        timer.daemon = True
        timer.start()

    with _handlers(loop, on_signal):
        try:
            await task
        except asyncio.CancelledError:
            if stopped:
                raise StoppedError(stopped[0]) from None
            raise


@contextlib.contextmanager
def _handlers(loop: asyncio.AbstractEventLoop, on_signal: Callable[[int], None]) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, on_signal, number)
    loop.add_signal_handler(signal.SIGUSR1, _tell_figures)
    try:
        yield
    finally:
        for number in (*numbers, signal.SIGUSR1):
            loop.remove_signal_handler(number)


def _tell_figures() -> None:
    """What grows where something is not given back, as one line of the log."""
    gc.collect()
    tasks, threads = len(asyncio.all_tasks()), threading.enumerate()
    # The event loop's own pool grows up to its size whenever more are busy at once than before.
    num_pooled = sum(thread.name.startswith("asyncio_") for thread in threads)
    with contextlib.suppress(OSError):
        print(
            f"figures: {tasks} tasks, {num_pooled} threads of the pool, "
            f"{len(gc.get_objects())} objects",
            file=sys.stderr,
            flush=True,
        )


async def stdin_closed() -> None:
    """Return when standard input ends: how a supervised node notices that its parent is gone."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        while await reader.read(4096):
            pass
    finally:
        transport.close()
