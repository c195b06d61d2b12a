"""A draft file is tried in a process of its own, which may die of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from airdraft.nodes.config.settings import DraftEngine
from airdraft.nodes.engine.toy import ToyConfig, ToyModel
from airdraft.nodes.worker.trial import Trial, run_passes
from tests.nodes.recurrent_toy import RecurrentToy

TOY = DraftEngine(model="toy:0.5")


def trial(script: str, **limits: float) -> Trial:
    return Trial((sys.executable, "-c", script), **limits)


def test_a_draft_that_runs_is_good() -> None:
    assert Trial().failure(TOY) == ""


@pytest.mark.parametrize("kind", [ToyModel, RecurrentToy])
@pytest.mark.parametrize("max_sequences", [1, 16])
def test_its_passes_are_those_of_guessing(
    max_sequences: int, kind: Callable[[ToyConfig], ToyModel]
) -> None:
    model = kind(ToyConfig(max_sequences=max_sequences, max_batch_tokens=10, num_cells=64))
    run_passes(model)
    assert model.num_forward_passes > 8
    assert model.length(0) == 11


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import os; os.abort()", r"it ended the process of its trial \(SIGABRT\)"),
        ("import os; os.kill(os.getpid(), 9)", "lack of memory"),
        ("print('error: no tokens'); exit(1)", "^no tokens$"),
        ("exit(3)", "without a reason"),
        ("import time; time.sleep(3600)", "took more than 0.5 s"),
    ],
)
def test_one_that_crashes_hangs_or_is_refused_is_not(script: str, reason: str) -> None:
    assert re.search(reason, trial(script, limit_s=0.5 if "sleep" in script else 60.0).failure(TOY))


def test_a_damaged_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "draft.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    failure = Trial().failure(DraftEngine(model=str(path)))
    assert str(path) in failure
    assert "Traceback" not in failure


def test_a_trial_that_is_stopped_ends(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    hangs = trial(f"import time; open({str(begun)!r}, 'w'); time.sleep(3600)")
    thread = threading.Thread(target=hangs.failure, args=(TOY,))
    thread.start()
    while not begun.exists():
        time.sleep(0.01)
    hangs.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert "stopped" in hangs.failure(TOY)


def test_a_trial_ends_with_its_parent() -> None:
    """The parent is killed, as by a lack of memory; each pass of the draft takes 10 s."""
    parent = (
        "from airdraft.nodes.config.settings import DraftEngine; "
        "from airdraft.nodes.worker.trial import Trial; "
        "Trial().failure(DraftEngine(model='toy:0.5@10000ms'))"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_for(lambda: bool(children.read_text()))
    (pid,) = map(int, children.read_text().split())
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    wait_for(lambda: not is_running(pid))


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
