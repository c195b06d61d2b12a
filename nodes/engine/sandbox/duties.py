"""The duties of sandboxed processes. The first line that a process reads names its duty."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from nodes.engine.chat.template import ChatTemplate
from nodes.engine.grammar import GrammarError, Grammars
from nodes.engine.llama_abi import load_model
from nodes.engine.protocol import InvalidInputError
from nodes.engine.rules import Grammar
from nodes.engine.vocab import LlamaTokenizer

# Rendering and tokenizing a text of 1 MiB takes some 100 MB.
_TEXT_MEMORY_BYTES: Final = 256 << 20
# Large schemas of real programs take 1 to 10 MB. Every grammar takes 5 MB for its first mask.
_GRAMMAR_BYTES: Final = 32 << 20
# A compilation needs more memory for a while than its result takes.
_GRAMMAR_MEMORY_BYTES: Final = 4 * _GRAMMAR_BYTES


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


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    pieces: list[bytes]
    eog_token_ids: frozenset[int]

    @property
    def num_vocab(self) -> int:
        return len(self.pieces)

    def piece(self, token_id: int) -> bytes:
        return self.pieces[token_id]


class CheckGrammars:
    """Compiles grammars to measure their memory.

    The question {"kind", "text"} gives the answer {"num_bytes"}. pieces: The piece of each token,
    as Latin-1. eog_ids: The tokens that end a text.
    """

    memory_bytes = _GRAMMAR_MEMORY_BYTES
    cpu_s = 2
    forks = True

    def __init__(self, pieces: list[str], eog_ids: list[int]) -> None:
        as_bytes = [piece.encode("latin-1") for piece in pieces]
        vocabulary = _Vocabulary(as_bytes, frozenset(eog_ids))
        self._grammars = Grammars(vocabulary, vocabulary)
        self._grammars.prepare()

    def answer(self, question: Any) -> dict[str, Any]:
        before = _most_resident_bytes()
        try:
            self._grammars.compile(Grammar(question["kind"], question["text"]))
        except GrammarError as error:
            raise InvalidInputError(str(error)) from None
        num_bytes = _most_resident_bytes() - before
        if num_bytes > _GRAMMAR_BYTES:
            raise InvalidInputError(
                f"the grammar takes {num_bytes >> 20} MiB of memory, limit {_GRAMMAR_BYTES >> 20}"
            )
        return {"num_bytes": num_bytes}


def _most_resident_bytes() -> int:
    """Return this process's peak memory; in a forked process it begins with the parent's memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


DUTIES: Final[dict[str, Callable[..., Duty]]] = {"texts": ReadTexts, "grammars": CheckGrammars}
