"""Tries a draft model in a process of its own, before a target opens it in its process.

A file may make libllama end its process or never return. The trial makes what later starts use as
well: the compact copy and the calibration.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from airdraft.nodes.catalog import CatalogError
from airdraft.nodes.config.settings import ConfigError, DraftEngine
from airdraft.nodes.engine.protocol import EngineError, Sequences, Span
from airdraft.nodes.worker.engines import open_engine, opened_inside

logger = logging.getLogger(__name__)

# Most trials take seconds. A compact copy of a large draft took minutes on a small board, and the
# trial has a tenth of the cores beside a busy target.
_LIMIT_S: Final = 3600.0
_NUM_STEPS: Final = 8
# First of all the child asks to end with the thread that started it.
_COMMAND: Final = (
    *(sys.executable, "-P", "-c"),
    "from airdraft.nodes.engine.sandbox.jail import end_with_parent; end_with_parent(); "
    "from airdraft.nodes.worker.trial import main; main()",
)


class Trial:
    """One trial. command: runs main(); it gets this process's id and the draft's settings."""

    def __init__(self, command: Sequence[str] = _COMMAND, limit_s: float = _LIMIT_S) -> None:
        self._command, self._limit_s = command, limit_s
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._is_stopped = False

    def failure(self, settings: DraftEngine) -> str:
        """Run the trial; returns why the draft failed, or "". Raises OSError if it cannot run."""
        given = [str(os.getpid()), json.dumps(asdict(settings))]
        with self._lock:
            if self._is_stopped:
                return "the trial was stopped"
            self._child = child = subprocess.Popen(
                [*self._command, *given],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        try:
            output, _ = child.communicate(timeout=self._limit_s)
        except subprocess.TimeoutExpired:
            return f"its trial took more than {self._limit_s:g} s"
        finally:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
        logger.debug("the trial of %s: %s", settings.model, output)
        if child.returncode == -signal.SIGKILL:
            return "the process of its trial was killed, perhaps for lack of memory"
        if child.returncode < 0:
            return f"it ended the process of its trial ({_name_of(-child.returncode)})"
        if child.returncode == 0:
            return ""
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        return (lines or ["its trial failed without a reason"])[-1].removeprefix("error: ")

    def stop(self) -> None:
        """End the trial, or the next one at once."""
        with self._lock:
            self._is_stopped = True
            if self._child is not None:
                self._child.kill()


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def main() -> None:
    """Open a draft as a target would, and run some passes; prints a line of error if it fails."""
    pid, given = sys.argv[1:]
    if os.getppid() != int(pid):
        # It ended before this process could ask to end with it.
        return
    try:
        # If memory is short, the kernel should end this process and not the target.
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError as error:
        logger.debug("the trial may outlive a lack of memory: %s", error)
    settings = DraftEngine(**json.loads(given))
    try:
        run_passes(opened_inside(open_engine(settings, is_draft=True), settings))
    except (EngineError, CatalogError, ConfigError, OSError) as error:
        print(f"error: {error}")
        sys.exit(1)


def run_passes(model: Sequences) -> None:
    """Read, guess for one and for two sequences, copy and take back, as a draft does."""
    token_ids = [7919 * (place + 1) % model.info.num_vocab for place in range(2 * _NUM_STEPS)]
    length = min(len(token_ids), model.info.max_batch_tokens)
    model.forward([Span(0, 0, token_ids[:length], 0)])
    seqs = [0]
    if model.info.max_sequences > 1:
        model.copy_prefix(0, 1, length)
        seqs.append(1)
    for step in range(_NUM_STEPS):
        model.forward(
            [Span(seq_id, length + step, [token_ids[step]], 1, keeps=step == 0) for seq_id in seqs]
        )
    for seq_id in seqs:
        model.truncate(seq_id, length)
    model.forward([Span(0, length, token_ids[:1], 1)])
