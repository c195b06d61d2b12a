"""What `make quick` leaves out, and that nothing else starts a process."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.slow import starts_processes

ROOT = Path(__file__).parents[1]

TESTS = """\
import os
import sys

import pytest


def start():
    os.waitpid(os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {}), 0)


@pytest.mark.slow
def test_that_says_so():
    start()


def test_that_does_not():
    start()


def test_that_starts_nothing():
    pass
"""


@pytest.mark.parametrize(
    ("text", "is_slow"),
    [
        ("import subprocess\n", True),
        ("def test():\n    import multiprocessing\n", True),
        ("await asyncio.create_subprocess_exec('x')\n", True),
        ("from tests.cli.commands import Commands\n", True),
        ("from tests.nodes.builders import make_submit\n", False),
        ("# subprocess is what this file has not\n", False),
    ],
)
def test_a_file_is_slow_if_it_or_its_helper_starts_processes(tmp_path, text, is_slow):
    path = tmp_path / "test_it.py"
    path.write_text(text)
    assert starts_processes(path) is is_slow


def test_what_starts_a_process_without_the_mark_fails(tmp_path):
    (tmp_path / "test_it.py").write_text(TESTS)
    options = ["-q", "-p", "tests.slow", "-p", "no:cacheprovider", "-W", "ignore"]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert "3 passed, 1 error" in done.stdout
    assert "what starts processes carries the mark `slow`" in done.stdout
    assert "test_that_does_not" in done.stdout
