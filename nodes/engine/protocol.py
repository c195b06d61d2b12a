"""What a role asks of an engine: sequences of tokens in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from nodes.engine.traits import ModelTraits

Logits: TypeAlias = npt.NDArray[np.float32]
Bytes: TypeAlias = npt.NDArray[np.uint8]
# Role and content of one message of a conversation.
Message: TypeAlias = tuple[str, str]


class EngineError(Exception):
    """The engine cannot go on; the message is one line for the operator."""


class StreamError(EngineError):
    """One stream cannot go on, others can; the message is one line for who asked for it.

    code: as in StreamFailedNotice.
    """

    code = "internal"


class ModelFileError(EngineError):
    """A model file is missing, damaged or of an unknown kind."""


class CacheFullError(EngineError):
    """The KV cache has no room. Recoverable: close or shorten a sequence and try again."""

    def __init__(self, wanted: int, free: int, total: int) -> None:
        super().__init__(f"KV cache full: {wanted} cells wanted, {free} of {total} free")
        self.wanted = wanted
        self.free = free
        self.total = total


class InvalidInputError(EngineError, ValueError):
    """A token id, sequence id, position or length outside what the engine accepts."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one sequence, to be run in one forward pass.

    start: position of the first token; everything before it is in the cache already.
    num_outputs: logits are wanted for this many of the last tokens (0: none, prefill).
    """

    seq_id: int
    start: int
    token_ids: Sequence[int]
    num_outputs: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class SavedPrefix:
    """A sequence's first `length` positions in host memory; for the engine that saved them only."""

    length: int
    state: Bytes

    @property
    def num_bytes(self) -> int:
        return self.state.nbytes


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Facts about a loaded engine that placement and admission need.

    exact: the start-up self-test found logits that do not depend on batch shape or neighbours.
    numerics_class: engines of one class compute equal bits (law 1, docs/design/exactness.md).
    can_roll_back: rejected guesses can be taken out of the cache; without it gamma is 0.
    emulated: answers or their times are not those of a real model on this machine.
    """

    engine: str
    model: str
    model_hash: str
    vocab_hash: str
    num_vocab: int
    num_cells: int
    max_sequences: int
    max_batch_tokens: int
    context_length: int
    eog_token_ids: frozenset[int]
    exact: bool
    numerics_class: str
    can_roll_back: bool
    emulated: bool = False
    traits: ModelTraits = field(default_factory=ModelTraits)


class Sequences(Protocol):
    """A language model with many sequences in one cache. Not thread-safe: one thread owns it."""

    @property
    def info(self) -> EngineInfo: ...

    def forward(self, spans: Sequence[Span]) -> Logits:
        """Run all spans in one pass; (rows, num_vocab) in span order.

        The array is a view that the next call overwrites. Raises InvalidInputError before
        anything is changed, CacheFullError when the cells do not suffice.
        """

    def truncate(self, seq_id: int, length: int) -> None:
        """Keep the first `length` positions of a sequence; 0 frees it."""

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Give the empty sequence `target` the first `length` positions of `source`."""

    def length(self, seq_id: int) -> int:
        """Positions of a sequence that are in the cache."""

    def free_cells(self) -> int:
        """Cells that new tokens could take, after a compaction if need be."""

    def close(self) -> None: ...


class Model(Sequences, Protocol):
    """A language model whose sequences can be kept in host memory."""

    def save(self, seq_id: int) -> SavedPrefix:
        """A copy of a sequence that is not empty; it stays in the cache."""

    def restore(self, seq_id: int, saved: SavedPrefix, length: int) -> None:
        """Give the empty sequence the first `length` positions of what was saved.

        Logits after it are those after the sequence that was saved, bit for bit. All of `saved`
        takes cells for a moment: raises CacheFullError when these do not suffice.
        """


class Tokenizer(Protocol):
    """Text to token ids and back. Thread-safe."""

    def encode(self, text: str) -> list[int]:
        """Prompt ids of a text as it is; nothing in it names control tokens."""

    def encode_chat(
        self, messages: Sequence[Message], *, date: str = "", tools: str = ""
    ) -> list[int]:
        """Prompt ids of a conversation in the model's chat template, up to where it is answered.

        Only the template names control tokens. date: what it takes for today, as YYYY-MM-DD; ""
        where that is not known. tools: functions that may be called, and calls in messages, as
        chat.tools.parse_tools reads them. Both raise InvalidInputError, one line for who asked;
        they may take some seconds.
        """

    def piece(self, token_id: int) -> bytes:
        """The bytes a token adds to the text; empty for control tokens."""


def check_spans(spans: Sequence[Span], info: EngineInfo, lengths: Sequence[int]) -> int:
    """Validate spans against an engine's limits; returns their number of tokens.

    lengths: (max_sequences,) positions in the cache. Everything is checked here because
    libllama aborts the process on some of these (n_tokens > n_batch, for one).
    """
    num_tokens = 0
    seen: set[int] = set()
    for span in spans:
        if not 0 <= span.seq_id < info.max_sequences:
            raise InvalidInputError(
                f"sequence id {span.seq_id} outside 0..{info.max_sequences - 1}"
            )
        if span.seq_id in seen:
            raise InvalidInputError(f"sequence {span.seq_id} appears twice in one pass")
        seen.add(span.seq_id)
        if not span.token_ids:
            raise InvalidInputError(f"sequence {span.seq_id}: no tokens")
        if span.start != lengths[span.seq_id]:
            raise InvalidInputError(
                f"sequence {span.seq_id}: tokens at position {span.start}, "
                f"but {lengths[span.seq_id]} are in the cache"
            )
        if not 0 <= span.num_outputs <= len(span.token_ids):
            raise InvalidInputError(f"sequence {span.seq_id}: {span.num_outputs} outputs")
        if min(span.token_ids) < 0 or max(span.token_ids) >= info.num_vocab:
            raise InvalidInputError(f"sequence {span.seq_id}: token id outside the vocabulary")
        num_tokens += len(span.token_ids)
    if not 0 < num_tokens <= info.max_batch_tokens:
        raise InvalidInputError(f"{num_tokens} tokens in one pass, limit {info.max_batch_tokens}")
    return num_tokens
