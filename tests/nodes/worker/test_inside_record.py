"""The record of a draft inside targets: who is accused of the death of a process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from airdraft.nodes.worker.inside_record import InsideRecord

# A process whose draft is at work. It prints a line, and then does as the test says.
AT_WORK = """
import os, signal, sys, threading
from pathlib import Path
from airdraft.nodes.service.runtime import last_act, run_to_end
from airdraft.nodes.worker.inside_record import InsideRecord
record = InsideRecord(Path(sys.argv[1]), "key", sys.argv[2])
"""
DIES = AT_WORK + "record.__enter__()\nos.kill(os.getpid(), signal.SIGKILL)"
DIES_AT_REST = AT_WORK + "with record: pass\nos.kill(os.getpid(), signal.SIGKILL)"
FAILS = AT_WORK + "with record: raise ValueError"
# A step never ends, so the process is ended at the limit of its stop phase.
STOPS = (
    AT_WORK
    + """
async def main():
    def hang():
        with record:
            print("at work", flush=True)
            threading.Event().wait()
    threading.Thread(target=hang, daemon=True).start()
    with last_act(record.release):
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass
import asyncio
run_to_end(main, stop_limit_s=0.1)
"""
)


def start(script: str, folder: Path, boot_id: str = "boot") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, str(folder), boot_id]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=60)
    return process.returncode


def test_a_draft_that_was_at_work_when_a_process_died_is_accused(tmp_path: Path) -> None:
    assert end(start(DIES, tmp_path)) == -signal.SIGKILL
    record = InsideRecord(tmp_path, "key", "boot")
    assert record.state == "ended"
    assert "at work" in record.reason
    # Whatever another target found of it, until somebody removes the file.
    record.store("good")
    record.store("slow", "it saved nothing")
    assert InsideRecord(tmp_path, "key", "boot").state == "ended"
    record.path.unlink()
    assert InsideRecord(tmp_path, "key", "boot").state == "untried"


def test_nobody_is_accused_of_other_ends(tmp_path: Path) -> None:
    assert end(start(DIES_AT_REST, tmp_path)) == -signal.SIGKILL
    assert end(start(FAILS, tmp_path)) == 1
    assert InsideRecord(tmp_path, "key", "boot").state == "untried"
    # The machine was started since: by a power cut, perhaps.
    end(start(DIES, tmp_path, "an earlier boot"))
    assert InsideRecord(tmp_path, "key", "boot").state == "untried"
    # Another draft's record is not touched.
    end(start(DIES, tmp_path))
    assert InsideRecord(tmp_path, "other", "boot").state == "untried"
    assert InsideRecord(tmp_path, "key", "boot").state == "ended"


def test_a_stop_in_the_middle_of_a_step_accuses_nobody(tmp_path: Path) -> None:
    process = start(STOPS, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    process.send_signal(signal.SIGTERM)
    assert end(process) == 128 + signal.SIGTERM
    assert InsideRecord(tmp_path, "key", "boot").state == "untried"


def test_targets_share_a_record_and_a_living_one_is_not_accused(tmp_path: Path) -> None:
    first = InsideRecord(tmp_path, "key", "boot")
    with first:
        second = InsideRecord(tmp_path, "key", "boot")
        assert second.state == "untried"
        end(start(DIES, tmp_path))
        assert InsideRecord(tmp_path, "key", "boot").state == "ended"
    assert first.state == "ended"


def test_marks_do_not_stay(tmp_path: Path) -> None:
    for script in (DIES, DIES_AT_REST):
        end(start(script, tmp_path))
    record = InsideRecord(tmp_path, "key", "boot")
    record.release()
    # A step may still be running.
    with record:
        pass
    assert list(tmp_path.glob("*.mark")) == []


def test_a_slow_draft_is_tried_again_a_day_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1e9]
    clock: Callable[[], float] = lambda: now[0]  # noqa: E731
    monkeypatch.setattr("airdraft.nodes.worker.inside_record.time.time", clock)
    record = InsideRecord(tmp_path, "key", "boot")
    record.store("slow", "it saved nothing")
    for later_s, state in ((0, "slow"), (80_000, "slow"), (90_000, "good"), (-10, "good")):
        now[0] = 1e9 + later_s
        assert record.state == state


@pytest.mark.parametrize("text", ["", "[]", '{"state": "bad"}', "\0"])
def test_a_damaged_file_is_as_none(tmp_path: Path, text: str) -> None:
    record = InsideRecord(tmp_path, "key", "boot")
    record.path.write_text(text)
    assert record.state == "untried"
