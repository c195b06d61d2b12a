"""A chat template, rendered by a process of its own that is ended when it takes too long."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from nodes.engine.protocol import InvalidInputError, Message

RENDER_LIMIT_S: Final = 2.0
# Python and Jinja2 on a small board that has other things to do.
START_LIMIT_S: Final = 15.0
# The sandbox's text, each character escaped as two halves, and the rest of the line.
_MAX_LINE_BYTES: Final = 12 * (1 << 20) + 4096
_COMMAND: Final = (sys.executable, "-P", "-m", "nodes.engine.chat.sandbox")


class ChatRenderer:
    """Renders conversations, one at a time. Thread-safe; close() ends the process.

    The process is started with the first conversation and stays for the next. It ends with its
    standard input: nothing is left of it, however this process ends.
    """

    def __init__(
        self, template: str, variables: Mapping[str, str], *, limit_s: float = RENDER_LIMIT_S
    ) -> None:
        """variables: what the template may use besides the messages, by name."""
        self._setup = {"template": template, "variables": dict(variables)}
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._error = ""
        self._is_closed = False

    def render(self, messages: Sequence[Message]) -> str:
        """The text of a conversation and of the beginning of its answer.

        Raises InvalidInputError with one line: what the template objects to, or how it fails.
        """
        with self._lock:
            if self._is_closed:
                raise InvalidInputError("the node stops")
            if self._error:
                raise InvalidInputError(self._error)
            if self._child is None or self._child.poll() is not None:
                self._start()
            reply = self._ask({"messages": messages}, self._limit_s)
        if "error" in reply:
            raise InvalidInputError(reply["error"])
        return reply["text"]

    def close(self) -> None:
        self._is_closed = True
        child = self._child
        if child is not None:
            # Whoever waits for it is told at once.
            child.kill()
        with self._lock:
            self._stop()

    def _start(self) -> None:
        self._stop()
        self._child = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A traceback might quote a conversation.
            stderr=subprocess.DEVNULL,
        )
        try:
            # A template that cannot be compiled is not tried again.
            self._error = self._ask(self._setup, START_LIMIT_S).get("error", "")
        except RuntimeError:
            # No thread to watch it: it does not know its template.
            self._stop()
            raise
        if self._error:
            raise InvalidInputError(self._error)

    def _ask(self, question: Any, limit_s: float) -> dict[str, str]:
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        timer = threading.Timer(limit_s, child.kill)
        timer.start()
        try:
            child.stdin.write(json.dumps(question).encode() + b"\n")
            child.stdin.flush()
            line = child.stdout.readline(_MAX_LINE_BYTES)
        except BrokenPipeError:
            line = b""
        finally:
            timer.cancel()
            timer.join()
        if not line.endswith(b"\n"):
            self._stop()
            raise InvalidInputError(
                f"the model's chat template was ended: it took more than {limit_s:g} s or too "
                f"much memory for this conversation"
            )
        # A template can write halves of characters, which are no text.
        return {k: text.encode(errors="replace").decode() for k, text in json.loads(line).items()}

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        assert child.stdin is not None
        assert child.stdout is not None
        # What was not written yet is for nobody.
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        child.stdout.close()
