"""The node's uses of sandboxed processes: reading texts and checking grammars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nodes.engine.grammar import GrammarError, Pieces, Sizes
from nodes.engine.protocol import InvalidInputError, Message
from nodes.engine.rules import Grammar
from nodes.engine.sandbox.process import EndedError, SandboxProcess
from nodes.engine.vocab import MAX_PROMPT_BYTES, LlamaTokenizer


class SandboxedTokenizer:
    """Tokenizes untrusted texts in a separate process, whose crash ends one request only."""

    def __init__(self, path: Path, vocabulary: LlamaTokenizer) -> None:
        """path: The model file. vocabulary: That of the file, which gives the pieces."""
        self._vocabulary = vocabulary
        self._process = SandboxProcess("texts", {"path": str(path.resolve())})

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

    def piece(self, token_id: int) -> bytes:
        return self._vocabulary.piece(token_id)

    def close(self) -> None:
        self._process.close()


class GrammarCheck:
    """Compiles grammars in a separate process first. Call it with a grammar; close() at the end."""

    def __init__(self, pieces: Pieces, sizes: Sizes) -> None:
        self._pieces = pieces
        self._sizes = sizes
        self._process: SandboxProcess | None = None

    def __call__(self, grammar: Grammar) -> int:
        """Return the bytes that the grammar takes. Raises GrammarError if they are too many."""
        if self._process is None:
            # It is not made before the first grammar, because many nodes never get one.
            pieces = [self._pieces.piece(i).decode("latin-1") for i in range(self._sizes.num_vocab)]
            eog_ids = sorted(self._sizes.eog_token_ids)
            self._process = SandboxProcess("grammars", {"pieces": pieces, "eog_ids": eog_ids})
        try:
            num_bytes: int = self._process.ask({"kind": grammar.kind, "text": grammar.text})[
                "num_bytes"
            ]
        except EndedError:
            raise GrammarError(
                "the grammar takes too much time or memory to be compiled: make it simpler"
            ) from None
        except InvalidInputError as error:
            raise GrammarError(str(error)) from None
        except (OSError, RuntimeError) as error:
            reason = f"the grammar cannot be checked on this node: {error}"
            raise GrammarError(reason, is_request_bad=False) from error
        return num_bytes

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
