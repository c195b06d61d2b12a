"""The process that answers questions about untrusted input, as JSON lines in and out.

The first line is the setup of a duty, with its name. The answer is {"is_filtered"}, whether system
calls are refused from now on. If the setup fails, the process ends. Each other line is a question.
Its answer is that of the duty, or {"error"} with one line for the client, or {"ended": N} if signal
N ended a forked process (0: it ended in another way). The process ends when its standard input
closes, so it does not outlive the node, however the node ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from airdraft.nodes.engine.chat.template import ChatTemplate
from airdraft.nodes.engine.grammar import GrammarError, Grammars
from airdraft.nodes.engine.llama_abi import load_model
from airdraft.nodes.engine.protocol import InvalidInputError
from airdraft.nodes.engine.rules import Grammar
from airdraft.nodes.engine.sandbox import jail
from airdraft.nodes.engine.sandbox.stack import STACK_BYTES, LargeStack
from airdraft.nodes.engine.vocab import LlamaTokenizer

# The limit for a machine so busy that the limit of CPU time is not reached.
_WALL_S: Final = 12.0
# Rendering and tokenizing a text of 1 MiB takes some 100 MB.
_TEXT_MEMORY_BYTES: Final = 256 << 20
# Large schemas of real programs take 1 to 10 MB. Every grammar takes 5 MB for its first mask.
_GRAMMAR_BYTES: Final = 32 << 20
# A compilation needs more memory for a while than its result takes.
_GRAMMAR_MEMORY_BYTES: Final = 4 * _GRAMMAR_BYTES
_BLOCK_BYTES: Final = 1 << 16


class Duty(Protocol):
    """One duty of a sandboxed process.

    memory_bytes, cpu_s: The limits of one answer. forks: A forked process makes each answer. This
    takes some 10 ms, but a question that ends the forked process needs no new setup.
    """

    memory_bytes: int
    cpu_s: int
    forks: bool

    def answer(self, question: Any) -> dict[str, Any]:
        """Answer a question. Raises InvalidInputError with one line for the client."""


class ReadTexts:
    """Tokenizes texts and conversations.

    The question {"text"} or {"messages", "date", "tools"} gives the answer {"token_ids"}.
    path: The model file, of which only the vocabulary is read.
    """

    memory_bytes = _TEXT_MEMORY_BYTES
    cpu_s = 3
    forks = False

    def __init__(self, path: str) -> None:
        self._model = load_model(Path(path), gpu_layers=0, repack=False, vocab_only=True)
        self._tokenizer = LlamaTokenizer(self._model)
        self._tokenizer.prepare()
        # Python loads modules at their first use, and files cannot be opened later.
        with contextlib.suppress(InvalidInputError):
            ChatTemplate("{{ nothing.at_all }}", {}).render([], "2000-01-01")

    def answer(self, question: Any) -> dict[str, Any]:
        if "text" in question:
            return {"token_ids": self._tokenizer.encode(question["text"])}
        messages = [(role, content) for role, content in question["messages"]]
        other = {"date": question["date"], "tools": question["tools"]}
        return {"token_ids": self._tokenizer.encode_chat(messages, **other)}


class CheckGrammars:
    """Tries grammars, and measures their memory.

    The question {"kind", "text"} gives the answer {"num_bytes", "rules"}. pieces: The piece of each
    token, as Latin-1. eog_ids: The tokens that end a text.
    """

    memory_bytes = _GRAMMAR_MEMORY_BYTES
    cpu_s = 2
    forks = True

    def __init__(self, pieces: list[str], eog_ids: list[int]) -> None:
        as_bytes = [piece.encode("latin-1") for piece in pieces]
        self._grammars = Grammars(as_bytes.__getitem__, len(pieces), frozenset(eog_ids))
        self._grammars.prepare()

    def answer(self, question: Any) -> dict[str, Any]:
        before = _most_resident_bytes()
        try:
            rules = self._grammars.tried(Grammar(question["kind"], question["text"])).rules
        except GrammarError as error:
            raise InvalidInputError(str(error)) from None
        num_bytes = _most_resident_bytes() - before
        if num_bytes > _GRAMMAR_BYTES:
            raise InvalidInputError(
                f"the grammar takes {num_bytes >> 20} MiB of memory, limit {_GRAMMAR_BYTES >> 20}"
            )
        return {"num_bytes": num_bytes, "rules": rules}


def _most_resident_bytes() -> int:
    """Returns this process's peak memory; in a forked one it begins with the parent's memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


DUTIES: Final[dict[str, Callable[..., Duty]]] = {"texts": ReadTexts, "grammars": CheckGrammars}


class Worker:
    """Answers the questions of one duty."""

    def __init__(self, duty: Duty) -> None:
        self._duty = duty
        self._stack = LargeStack()

    def confine(self) -> bool:
        """Give up what answering does not need; returns whether system calls are filtered."""
        # What libraries left open. 0, 1 and 2 are the pipes and /dev/null.
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2:
                # The list has its own descriptor, which is closed by now.
                with contextlib.suppress(OSError):
                    os.close(int(name))
        # As much again as the stack, because malloc reserves memory for a thread and uses little.
        address_space = jail.address_space_bytes() + 2 * STACK_BYTES + self._duty.memory_bytes
        return jail.confine(address_space=address_space, forks=self._duty.forks)

    def answer(self, line: bytes) -> bytes:
        return self._in_fork(line) if self._duty.forks else self._here(line)

    def _here(self, line: bytes) -> bytes:
        # A fork answers once, so that it needs no further time and no fork of its own.
        jail.limit(cpu_s=self._duty.cpu_s, wall_s=_WALL_S, is_final=self._duty.forks)
        made: list[bytes] = []
        # Each question has its own thread, whose stack is freed at the end.
        self._stack.run(lambda: made.append(self._made_of(line)))
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
                # The answer is all that it can write, and it reads no other questions.
                for descriptor in (sys.stdin.fileno(), sys.stdout.fileno(), reading):
                    os.close(descriptor)
                jail.end_with_parent()
                jail.give_up_forks()
                _write_all(writing, self._here(line))
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        made = b"".join(iter(lambda: os.read(reading, _BLOCK_BYTES), b""))
        os.close(reading)
        status = os.waitpid(child, 0)[1]
        # An answer is one line. A fork that an attacker took over could write the next ones, too.
        if status == 0 and made and b"\n" not in made:
            return made
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        return json.dumps({"ended": number}).encode()


def main() -> None:
    # Ctrl-C in a terminal is meant for the node. Standard input closes when the node ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lines = iter(sys.stdin.buffer.readline, b"")
    setup: dict[str, Any] = json.loads(next(lines))
    worker = Worker(DUTIES[setup.pop("duty")](**setup))
    _write_line(json.dumps({"is_filtered": worker.confine()}).encode())
    for line in lines:
        _write_line(worker.answer(line))
    # Python's own end would free callbacks, whose memory is constant now.
    os._exit(0)


def _write_line(answer: bytes) -> None:
    _write_all(sys.stdout.fileno(), answer + b"\n")


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    main()
