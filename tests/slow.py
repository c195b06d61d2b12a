"""Which tests are slow: `make quick` leaves them out, and no other test may start a process.

A test is slow if it is one of bench's, if its file or a helper that the file imports starts
processes, if it needs model files, or if it carries the mark `slow` because it takes longer than a
second or two.
"""

import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

QUICK: Final = "not slow"
_ROOT: Final = Path(__file__).parents[1]
_BENCH: Final = _ROOT / "tests" / "bench"
_STARTS = re.compile(
    r"^\s*import (subprocess|multiprocessing)|create_subprocess_\w+\(", flags=re.MULTILINE
)
_HELPER = re.compile(r"^\s*(?:from|import) (tests\.[\w.]+)", flags=re.MULTILINE)
_EVENTS: Final = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system")
_started: list[str] = []


def is_left_out(path: Path, config: pytest.Config) -> bool:
    """Whether a file need not even be imported, because all of its tests are slow."""
    chosen: str = config.option.markexpr
    return chosen == QUICK and _is_slow(path)


def mark_slow(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("model") or _is_slow(item.path):
            item.add_marker("slow")


def _is_slow(path: Path) -> bool:
    return path.is_relative_to(_BENCH) or (path.suffix == ".py" and starts_processes(path))


@functools.cache
def starts_processes(path: Path) -> bool:
    """Whether the file of a test or of a helper starts processes, or a helper that it imports."""
    text = path.read_text()
    helpers = (_ROOT / f"{name.replace('.', '/')}.py" for name in _HELPER.findall(text))
    return bool(_STARTS.search(text)) or any(map(starts_processes, filter(Path.exists, helpers)))


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event in _EVENTS:
        _started.append(f"{event} {arguments[:1]}")


sys.addaudithook(_note)


@pytest.fixture(autouse=True)
def no_processes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that starts a process, if it is not slow."""
    before = len(_started)
    yield
    started = _started[before:]
    is_slow = request.node.get_closest_marker("slow") is not None
    assert is_slow or not started, f"what starts processes carries the mark `slow`: {started}"
