"""The node's side of sandboxed processes, which read texts and check grammars."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from airdraft.nodes.engine.grammar import Checked, GrammarError, Piece
from airdraft.nodes.engine.protocol import InvalidInputError, Message
from airdraft.nodes.engine.rules import Grammar
from airdraft.nodes.engine.vocab import MAX_PROMPT_BYTES, LlamaTokenizer

logger = logging.getLogger(__name__)

# The time to load Python, libllama and a vocabulary on a small and busy board.
START_LIMIT_S: Final = 60.0
# The process's own limit is 12 s. This limit applies if that one fails.
ANSWER_LIMIT_S: Final = 20.0
# Enough for the ids of the longest text or the error of a grammar, with the rest of the line.
_MAX_LINE_BYTES: Final = 16 << 20
_COMMAND: Final = (sys.executable, "-P", "-m", "airdraft.nodes.engine.sandbox.worker")
_ROOT: Final = Path(__file__).parents[4]
# The environment of the process: what is needed to find libraries; no GPU, and one thread.
_KEPT: Final = ("LD_LIBRARY_PATH", "LLAMA_CPP_LIB_PATH")
_SET: Final = {
    "PYTHONPATH": str(_ROOT),
    "PYTHONDONTWRITEBYTECODE": "1",
    "CUDA_VISIBLE_DEVICES": "-1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class EndedError(Exception):
    """The process ended while it worked on a question."""


class SandboxProcess:
    """Answers questions one at a time. It is thread-safe; close() ends the process.

    The first question starts the process, which stays for the next ones. It ends when its standard
    input closes, so it does not outlive the node, however the node ends.
    """

    def __init__(
        self,
        duty: str,
        setup: Mapping[str, Any],
        is_valid: Callable[[Mapping[str, Any]], bool] = bool,
    ) -> None:
        """Prepare a process for a duty, a key of worker.DUTIES.

        setup: The duty's arguments. is_valid: Whether an answer without an error has the form that
        the duty gives it. A process that gives another one is ended, as input may have taken it
        over.
        """
        self._setup = {"duty": duty, **setup}
        self._is_valid = is_valid
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = threading.Event()

    def start(self) -> None:
        """Start the process in the background, so that the first question waits less."""
        threading.Thread(target=self._start_ahead, daemon=True).start()

    def _start_ahead(self) -> None:
        # The first question will raise the same error again.
        with self._lock, contextlib.suppress(EndedError, InvalidInputError, OSError, RuntimeError):
            self._ensure_started()

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the answer to a question.

        Raises InvalidInputError with one line for the client, EndedError if the process ended
        without an answer, TimeoutError if it did not get the processor for so long that this says
        nothing about the question, and OSError or RuntimeError if it cannot be started.
        """
        with self._lock:
            self._ensure_started()
            answer = self._ask(question, ANSWER_LIMIT_S)
            if answer.get("ended") == signal.SIGKILL:
                # The kernel or a user ended it, for example for lack of memory. Try once more.
                self._ensure_started()
                answer = self._ask(question, ANSWER_LIMIT_S)
            if not {"ended", "error"} & answer.keys() and not self._is_valid(answer):
                self._stop()
                answer = {"ended": signal.SIGSYS}
        if answer.get("ended") == signal.SIGSYS:
            logger.error(
                "the sandboxed process for %s made a forbidden system call or gave no valid answer "
                "and was ended: a request may have used a fault in a library or in the model's "
                "template",
                self._setup["duty"],
            )
        if answer.get("ended") == signal.SIGALRM:
            raise TimeoutError("no answer of a sandboxed process: this machine is busy or was held")
        if "ended" in answer:
            raise EndedError(f"ended by signal {answer['ended']} (0: in another way)")
        if "error" in answer:
            raise InvalidInputError(str(answer["error"]))
        return answer

    def close(self) -> None:
        self._closed.set()
        child = self._child
        if child is not None:
            # This wakes a thread that waits for its answer.
            child.kill()
        with self._lock:
            self._stop()

    def _ensure_started(self) -> None:
        if self._closed.is_set():
            raise InvalidInputError("the node is stopping")
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
            env={name: os.environ[name] for name in _KEPT if name in os.environ} | _SET,
        )
        if self._closed.is_set():
            # close() may have looked for the process before there was one.
            self._stop()
            raise InvalidInputError("the node is stopping")
        ready = self._ask(self._setup, START_LIMIT_S)
        if "ended" in ready:
            raise RuntimeError(f"the sandboxed process for {self._setup['duty']} does not start")
        if not ready["is_filtered"]:
            logger.warning(
                "this machine cannot filter system calls: the sandboxed process for %s has limits "
                "of memory and time, but a fault in a library could reach files and processes",
                self._setup["duty"],
            )

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
            # There is no thread for the timer, so the question would have no time limit.
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
            with contextlib.suppress(ValueError, RecursionError):
                answer = json.loads(line)
                if isinstance(answer, dict):
                    return answer
            self._stop()
            return {"ended": signal.SIGSYS}
        # If the process was ending already, the signal of _stop() has no effect on its exit code.
        code = self._stop()
        return {"ended": signal.SIGALRM if is_late.is_set() else max(0, -code)}

    def _stop(self) -> int:
        """End the process; returns its exit code."""
        child, self._child = self._child, None
        if child is None:
            return 0
        child.kill()
        code = child.wait()
        assert child.stdin is not None
        assert child.stdout is not None
        # The process has ended, so unsent data is lost.
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        child.stdout.close()
        return code


class SandboxedTokenizer:
    """Tokenizes untrusted texts in a separate process, whose crash ends one request only."""

    def __init__(self, path: Path, vocabulary: LlamaTokenizer) -> None:
        """path: The model file. vocabulary: That of the file, which gives the pieces."""
        self._vocabulary = vocabulary
        setup = {"path": str(path.resolve())}
        self._process = SandboxProcess("texts", setup, self._has_token_ids)

    def start(self) -> None:
        """Start the process before the first text."""
        self._process.start()

    def encode(self, text: str) -> list[int]:
        return self._read({"text": text}, len(text))

    def encode_chat(
        self, messages: Sequence[Message], *, date: str = "", tools: str = ""
    ) -> list[int]:
        num_chars = sum(len(content) for _, content in messages) + len(tools)
        return self._read({"messages": list(messages), "date": date, "tools": tools}, num_chars)

    def _read(self, question: dict[str, object], num_chars: int) -> list[int]:
        # Checked before the text is copied.
        if num_chars > MAX_PROMPT_BYTES:
            raise InvalidInputError(
                f"the prompt has {num_chars} characters, limit {MAX_PROMPT_BYTES}"
            )
        try:
            token_ids: list[int] = self._process.ask(question)["token_ids"]
        except EndedError:
            raise InvalidInputError(
                "the prompt takes too much time or memory to be read: shorten it or split very "
                "long words"
            ) from None
        return token_ids

    def _has_token_ids(self, answer: Mapping[str, Any]) -> bool:
        ids = answer.get("token_ids")
        if not isinstance(ids, list) or not set(map(type, ids)) <= {int}:
            return False
        return not ids or bool(min(ids) >= 0 and max(ids) < self._vocabulary.num_vocab)

    def piece(self, token_id: int) -> bytes:
        return self._vocabulary.piece(token_id)

    def close(self) -> None:
        self._process.close()


class GrammarCheck:
    """Tries grammars in a separate process first. Call it with a grammar; close() at the end."""

    def __init__(self, piece: Piece, num_vocab: int, eog_ids: frozenset[int]) -> None:
        """Arguments: As of Grammars."""
        self._piece = piece
        self._num_vocab = num_vocab
        self._eog_ids = eog_ids
        self._process: SandboxProcess | None = None

    def __call__(self, grammar: Grammar) -> Checked:
        """Returns what the process found. Raises GrammarError if the grammar cannot be used."""
        if self._process is None:
            # It is not made before the first grammar, because many nodes never get one.
            pieces = [self._piece(i).decode("latin-1") for i in range(self._num_vocab)]
            setup = {"pieces": pieces, "eog_ids": sorted(self._eog_ids)}
            self._process = SandboxProcess("grammars", setup, _is_checked)
        try:
            answer = self._process.ask({"kind": grammar.kind, "text": grammar.text})
        except EndedError:
            raise GrammarError(
                "the grammar takes too much time or memory to be compiled: make it simpler"
            ) from None
        except InvalidInputError as error:
            raise GrammarError(str(error)) from None
        except (OSError, RuntimeError) as error:
            reason = f"the grammar cannot be checked on this node: {error}"
            raise GrammarError(reason, is_request_bad=False) from error
        return Checked(answer["rules"], answer["num_bytes"])

    def close(self) -> None:
        if self._process is not None:
            self._process.close()


def _is_checked(answer: Mapping[str, Any]) -> bool:
    return type(answer.get("num_bytes")) is int and isinstance(answer.get("rules"), str)
