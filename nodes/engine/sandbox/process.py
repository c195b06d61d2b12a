"""The node's side of a sandboxed process: starts it, asks it, starts it again after its end."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from nodes.engine.protocol import InvalidInputError

logger = logging.getLogger(__name__)

# Python, libllama and a vocabulary on a small board that has other things to do.
START_LIMIT_S: Final = 60.0
# The process ends what it forks after 12 s; this is for the case that it does not.
ANSWER_LIMIT_S: Final = 20.0
# The ids of the longest text, or a grammar's error, and the rest of the line.
_MAX_LINE_BYTES: Final = 16 << 20
_COMMAND: Final = (sys.executable, "-P", "-m", "nodes.engine.sandbox.worker")
_ROOT: Final = Path(__file__).resolve().parents[3]


class EndedError(Exception):
    """The process ended while it worked on a question, or could not be started.

    signal_number: the signal that ended it, 0 for another end.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"ended by signal {signal_number}" if signal_number else "ended")
        self.signal_number = signal_number


class SandboxProcess:
    """Answers questions one at a time. Thread-safe; close() ends the process.

    It is started with the first question and stays for the next. It ends with its standard input,
    so nothing is left of it, however this process ends.
    """

    def __init__(self, duty: str, setup: Mapping[str, Any]) -> None:
        """duty: a key of duties.DUTIES; setup: what that takes, as JSON."""
        self._setup = {"duty": duty, **setup}
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._error = ""
        self._is_closed = False

    def start(self) -> None:
        """Begin to start the process, so that the first question need not wait for all of it."""
        threading.Thread(target=self._start_ahead, daemon=True).start()

    def _start_ahead(self) -> None:
        # Whatever is wrong is found again by who asks.
        with self._lock, contextlib.suppress(EndedError, InvalidInputError, OSError, RuntimeError):
            self._ensure_started()

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Raises InvalidInputError with one line for who asked, EndedError where there is none, and
        OSError or RuntimeError where the process cannot be started."""
        with self._lock:
            answer = self._answer(question)
            if answer.get("ended") == signal.SIGKILL:
                # Somebody else ended it, such as the kernel for lack of memory: once more.
                answer = self._answer(question)
        if "ended" in answer:
            raise EndedError(answer["ended"])
        if "error" in answer:
            raise InvalidInputError(answer["error"])
        return answer

    def close(self) -> None:
        self._is_closed = True
        child = self._child
        if child is not None:
            # Whoever waits for it is told at once.
            child.kill()
        with self._lock:
            self._stop()

    def _answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        self._ensure_started()
        return self._ask(question, ANSWER_LIMIT_S)

    def _ensure_started(self) -> None:
        if self._is_closed:
            raise InvalidInputError("the node stops")
        if self._error:
            raise InvalidInputError(self._error)
        if self._child is not None and self._child.poll() is None:
            return
        self._stop()
        self._child = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A traceback might quote a conversation.
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=_environment(),
        )
        # A setup that is wrong, such as a template that cannot be compiled, is not tried again.
        ready = self._ask(self._setup, START_LIMIT_S)
        if "ended" in ready:
            raise RuntimeError(f"the process for {self._setup['duty']} does not start")
        self._error = ready.get("error", "")
        if not ready.get("is_filtered", True):
            logger.warning(
                "this machine has no filter of system calls: the process for %s could open files",
                self._setup["duty"],
            )
        if self._error:
            raise InvalidInputError(self._error)

    def _ask(self, question: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        is_late = threading.Event()

        def give_up() -> None:
            is_late.set()
            child.kill()

        timer = threading.Timer(limit_s, give_up)
        try:
            timer.start()
        except RuntimeError:
            # No thread to watch it.
            self._stop()
            raise
        try:
            child.stdin.write(json.dumps(question).encode() + b"\n")
            child.stdin.flush()
            line = child.stdout.readline(_MAX_LINE_BYTES)
        except BrokenPipeError:
            line = b""
        finally:
            timer.cancel()
            timer.join()
        if line.endswith(b"\n"):
            answer: dict[str, Any] = json.loads(line)
            return answer
        # The signal that had ended it, for one that is ending is not ended anew.
        code = self._stop()
        return {"ended": -code if code < 0 and not is_late.is_set() else 0}

    def _stop(self) -> int:
        """End the process; returns its exit code."""
        child, self._child = self._child, None
        if child is None:
            return 0
        child.kill()
        code = child.wait()
        assert child.stdin is not None
        assert child.stdout is not None
        # What was not written yet is for nobody.
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        child.stdout.close()
        return code


def _environment() -> dict[str, str]:
    """Nothing of the node's but what finding libraries takes; no graphics processor, one thread."""
    given = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**given, **_SET}


_KEPT: Final = ("LD_LIBRARY_PATH", "LLAMA_CPP_LIB_PATH")
_SET: Final = {
    "PYTHONPATH": str(_ROOT),
    "PYTHONDONTWRITEBYTECODE": "1",
    "CUDA_VISIBLE_DEVICES": "-1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
