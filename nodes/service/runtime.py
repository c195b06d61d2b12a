"""Starts, serves and stops: every process of airdraft runs inside `run_to_end`."""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeVar

from airdraft.mesh.errors import EndpointError, InsecureEndpointError, KeysError, MeshError
from airdraft.mesh.messages import DISMISSED, NOT_ALLOWED, OTHER_PROTOCOL, UNSUITABLE
from airdraft.nodes.api.errors import AirdraftError, ConnectError
from airdraft.nodes.catalog import CatalogError, ModelNameError
from airdraft.nodes.client.client import RequestFailedError
from airdraft.nodes.config.settings import ConfigError
from airdraft.nodes.config.sources import environment
from airdraft.nodes.engine.protocol import EngineError
from airdraft.nodes.service.systemd import Manager, is_journal, with_priority
from airdraft.nodes.worker.connection import LostCoordinatorError, NoCoordinatorError, RefusedError

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Codes from 64 to 78 are those of sysexits.h. docs/reference/exit-codes.md has a supervisor's
# reactions.
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 69
EXIT_PROTOCOL = 76
EXIT_NO_PERMISSION = 77
EXIT_CONFIG = 78
EXIT_DISMISSED = 79
STOP_LIMIT_S = 10.0
# The name of a thread that loads a model. It cannot be interrupted, and may take minutes.
LOADING = "loading"

# Exit codes by the code of the coordinator's Refuse message.
_REFUSALS = {
    DISMISSED: EXIT_DISMISSED,
    OTHER_PROTOCOL: EXIT_PROTOCOL,
    NOT_ALLOWED: EXIT_NO_PERMISSION,
    UNSUITABLE: EXIT_CONFIG,
}

# Errors that a user can cause or must know. Each is printed as one line without a traceback.
_EXPECTED = (
    MeshError,
    EngineError,
    CatalogError,
    RequestFailedError,
    ConfigError,
    AirdraftError,
    OSError,
)

# Actions that must run even if there is no time for the stop phase.
_last_acts: list[Callable[[], None]] = []


# -- the process -----------------------------------------------------------------------------------


class StoppedError(Exception):
    """A signal stopped the process."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number


def set_engine_environment() -> None:
    """Limit how long libgomp's threads spin; to be called before any module loads libgomp.

    Threads that spin for long beside another busy process make passes 20 to 40 times as long.
    Without any spinning two threads take longer for a single token than one. Milliseconds of a pass
    of one token by spin count, for a 1.5B model in Q4_K_M on two free cores (2-core AMD EPYC):
    0: 101, 1,000: 66, 10,000: 44, 100,000: 46; one thread: 75.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def hold_standard_files() -> None:
    """Open /dev/null for those of the descriptors 0 to 2 that are closed.

    Otherwise a socket might get one of these numbers and receive the output of libraries.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # It gets the lowest free number.
            os.open(os.devnull, os.O_RDWR)
    # Python has no streams for those that were closed when it started.
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def let_go_of_stderr() -> None:
    """Flush standard error, or drop it if that fails: Python would then change the exit code."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.stderr = None


def print_line(text: str) -> None:
    """Print a line on standard output; a service goes on if nobody reads it any more."""
    try:
        print(text, flush=True)
    except OSError:
        # Otherwise Python would try to write the line again at its end, and change the exit code.
        sys.stdout = None


def raise_file_limit() -> None:
    """Raise the limit of open files as far as possible, because each peer needs one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def forbid_core_dumps() -> None:
    """Forbid core dumps: a crash must leave no prompts, texts or keys on a disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def one_line(text: str) -> str:
    """Returns a text with escapes in place of control characters. Members choose their names and
    reasons, and could forge further lines, or command the terminal that shows them."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class TextFormatter(logging.Formatter):
    """Makes one line of a message."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record))


class JournalFormatter(TextFormatter):
    """Makes the same without a time, which journald adds, and with the priority."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return with_priority(super().format(record), record.levelno)


def set_up_logging(verbose: int) -> None:
    """Log to standard error, with priorities if journald reads it."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = logging.StreamHandler(sys.stderr)
    if is_journal(environment(), sys.stderr):
        handler.setFormatter(JournalFormatter())
    else:
        handler.setFormatter(TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


# -- running to an end -----------------------------------------------------------------------------


def run_to_end(
    main: Callable[[], Awaitable[T]],
    *,
    is_service: bool = False,
    stop_limit_s: float = STOP_LIMIT_S,
) -> T:
    """Run a coroutine and return its result; if it fails, exit with at most one line of error.

    is_service: The role does not end by itself, so SIGTERM is a regular end with code 0.
    stop_limit_s: The time for the stop phase, after which the process is ended.
    """
    forbid_core_dumps()
    try:
        if is_service:
            # All objects that exist after the imports are excluded from garbage collection. A full
            # collection takes 10 to 20 ms for these 40,000 alone, and no message is read meanwhile.
            gc.collect()
            gc.freeze()
        return asyncio.run(_until_signal(main, stop_limit_s))
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except Exception as error:  # noqa: BLE001 - the one place that turns failures into exit codes
        code = report(error)
        if is_service and code == 128 + signal.SIGTERM:
            code = 0
    if any(thread.name.startswith(LOADING) for thread in threading.enumerate()):
        # Python would wait for the thread until the limit of the stop phase.
        let_go_of_stderr()
        end_at_once(code)
    sys.exit(code)


async def in_loading_thread(work: Callable[[], T]) -> T:
    """Call what loads a model in a thread that ends with it.

    While such a thread exists, libgomp counts its helper threads as busy, and those of the engine's
    thread sleep instead of spinning (a pass of a 1.5B model on two cores took 76 ms instead of 46).
    """
    executor = ThreadPoolExecutor(1, LOADING)
    loading = asyncio.get_running_loop().run_in_executor(executor, work)
    executor.shutdown(wait=False)
    return await loading


async def _until_signal(main: Callable[[], Awaitable[T]], stop_limit_s: float) -> T:
    """Await main, but cancel it when a signal comes; a second signal exits at once."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main())
    stopped: list[int] = []

    def on_signal(number: int) -> None:
        if stopped:
            end_at_once(128 + number)
        stopped.append(number)
        Manager(environment()).stopping(stop_limit_s)
        task.cancel()
        # The process must end at the limit even if the stop phase hangs.
        timer = threading.Timer(stop_limit_s, end_at_once, (128 + number,))
        timer.daemon = True
        timer.start()

    numbers = [signal.SIGINT, signal.SIGTERM]
    # Whoever starts the process by nohup ignores SIGHUP, so that it outlives its terminal.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    # The loop removes the handlers when it is closed.
    for number in numbers:
        loop.add_signal_handler(number, on_signal, number)
    try:
        return await task
    except asyncio.CancelledError:
        if stopped:
            raise StoppedError(stopped[0]) from None
        raise


@contextlib.contextmanager
def last_act(act: Callable[[], None]) -> Iterator[None]:
    """Call `act`, which must not block for long, if end_at_once() is called inside the block."""
    _last_acts.append(act)
    try:
        yield
    finally:
        _last_acts.remove(act)


def end_at_once(code: int) -> NoReturn:
    """End the process without a stop phase, after the actions of last_act()."""
    for act in reversed(_last_acts):
        with contextlib.suppress(Exception):
            act()
    os._exit(code)


async def beside(serving: Collection[asyncio.Task[Any]], work: Awaitable[T]) -> T:
    """Await `work`, but raise the error of a task of `serving` at once."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            running = [other for other in serving if not other.done()]
            await asyncio.wait([task, *running], return_when=asyncio.FIRST_COMPLETED)
            for other in serving:
                if other.done():
                    other.result()
        return await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# -- errors as lines and exit codes ----------------------------------------------------------------


def report(error: BaseException) -> int:
    """Print an error as one line, or a traceback if it is a bug; returns the exit code."""
    cause = first_cause(error)
    if isinstance(cause, StoppedError):
        return cause.exit_code
    if isinstance(cause, _EXPECTED):
        print_error(_line_of(cause))
        return _exit_code(cause)
    logger.error("internal error", exc_info=error)
    return EXIT_FAILURE


def print_error(text: str) -> None:
    """Print `error: TEXT` on standard error, with its priority if journald reads it."""
    line = one_line(f"error: {text}")
    if is_journal(environment(), sys.stderr):
        line = with_priority(line, logging.ERROR)
    # If standard error is closed, only the exit code shows the error.
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr)


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
    """Returns the message of an error; an error of the operating system names the file's path."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def first_cause(error: BaseException) -> BaseException:
    """Returns the first exception inside nested exception groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
