"""The process that answers questions about untrusted input, as JSON lines in and out.

The first line is the setup of a duty, with its name. The answer is {"is_filtered"}, whether system
calls are refused from now on, or {"error"} if the setup fails. Each other line is a question. Its
answer is that of the duty, or {"error"} with one line for the client, or {"ended": N} if signal N
ended a forked process (0: it ended in another way). The process ends when its standard input
closes, so it does not outlive the node, however the node ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from nodes.engine.protocol import InvalidInputError
from nodes.engine.sandbox import jail
from nodes.engine.sandbox.duties import DUTIES, Duty

# Some tokenizers use a std::regex that recurses once for each letter, with 310 bytes each (measured
# with libstdc++ 12). A message on the wire holds some 600,000 letters. Only used pages take memory.
_STACK_BYTES: Final = 256 << 20
# The limit for a machine so busy that the limit of CPU time is not reached.
_WALL_S: Final = 12.0


class Worker:
    """Answers the questions of one duty."""

    def __init__(self, duty: Duty) -> None:
        self._duty = duty
        # The stack of the previous question may not be freed yet, so there is room for two.
        self._address_space = jail.address_space_bytes() + 2 * _STACK_BYTES + duty.memory_bytes

    def answer(self, line: bytes) -> bytes:
        return self._in_fork(line) if self._duty.forks else self._here(line)

    def _here(self, line: bytes) -> bytes:
        jail.limit(address_space=self._address_space, cpu_s=self._duty.cpu_s, wall_s=_WALL_S)
        made: list[bytes] = []
        # Each question has its own thread, whose stack is freed at the end.
        _with_large_stack(lambda: made.append(self._made_of(line)))
        jail.rest()
        return made[0] if made else b'{"ended": 0}'

    def _made_of(self, line: bytes) -> bytes:
        try:
            answer = self._duty.answer(json.loads(line))
        except InvalidInputError as error:
            answer = {"error": str(error)}
        return json.dumps(answer).encode()

    def _in_fork(self, line: bytes) -> bytes:
        """Answer in a forked process, which may crash and whose memory can be measured."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(reading)
                jail.end_with_parent()
                with open(writing, "wb") as file:
                    file.write(self._here(line))
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        with open(reading, "rb") as answer:
            made = answer.read()
        status = os.waitpid(child, 0)[1]
        if status == 0 and made:
            return made
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        return json.dumps({"ended": number}).encode()


def _with_large_stack(work: Callable[[], object]) -> None:
    threading.stack_size(_STACK_BYTES)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def main() -> None:
    # Ctrl-C in a terminal is meant for the node. Standard input closes when the node ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lines = iter(sys.stdin.buffer.readline, b"")
    setup: dict[str, Any] = json.loads(next(lines))
    try:
        worker = Worker(DUTIES[setup.pop("duty")](**setup))
    except InvalidInputError as error:
        _write_line(json.dumps({"error": str(error)}).encode())
        return
    # The filter is set before other threads start, because it would not apply to these.
    _write_line(json.dumps({"is_filtered": jail.refuse_calls()}).encode())
    for line in lines:
        _write_line(worker.answer(line))


def _write_line(answer: bytes) -> None:
    sys.stdout.buffer.write(answer + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
