"""The interface between a role and its engine: sequences of tokens in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from airdraft.nodes.engine.traits import ModelTraits

Logits: TypeAlias = npt.NDArray[np.float32]
# What blocks of a split model pass on: for each token as many numbers as the model is wide.
Rows: TypeAlias = npt.NDArray[np.float32]
Bytes: TypeAlias = npt.NDArray[np.uint8]
# Role and content of one message of a conversation.
Message: TypeAlias = tuple[str, str]


class EngineError(Exception):
    """The engine cannot continue. The message is one line for the operator."""


class StreamError(EngineError):
    """One stream cannot continue, but others can. The message is one line for the client.

    code: The error code of StreamFailedNotice.
    """

    code = "internal"


class ModelFileError(EngineError):
    """A model file is missing, damaged or of an unknown kind."""


class CacheFullError(EngineError):
    """The KV cache has no room. The caller may close or shorten a sequence and try again."""

    def __init__(self, wanted: int, free: int, total: int) -> None:
        super().__init__(f"KV cache full: {wanted} cells wanted, {free} of {total} free")


class SequencesLostError(EngineError):
    """A part of the engine was lost and is back. All sequences are empty, and what was saved of
    them can no longer be restored. The next passes run."""


class InvalidInputError(EngineError, ValueError):
    """A token id, sequence id, position or length is outside the range that the engine accepts."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one sequence that run in one forward pass.

    start: The position of the first token. All tokens before it are in the cache already.
    num_outputs: The pass returns logits for this many of the last tokens; 0 for a prefill.
    keeps: The sequence can be cut to `start` and more later, until another span of it keeps. This
    matters for models whose sequences cannot be cut at will. num_padding: So many tokens at the end
    are none of the text, and get no logits; engines fill up spans with them.
    """

    seq_id: int
    start: int
    token_ids: Sequence[int]
    num_outputs: int = 0
    keeps: bool = False
    num_padding: int = 0


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class SavedPrefix:
    """The first `length` positions of a sequence in host memory.

    Only the engine that saved them can restore them. shortest: Fewer positions than this cannot be
    restored, as with Sequences.shortest(). pending: The last tokens, if the state is of the others.
    """

    length: int
    state: Bytes
    shortest: int = 0
    pending: tuple[int, ...] = ()

    @property
    def num_bytes(self) -> int:
        return self.state.nbytes


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Facts about a loaded engine that placement and admission need.

    exact: The self-test found that logits do not depend on the batch shape or on other sequences.
    numerics_class: Engines of one class compute equal bits (law 1, docs/design/exactness.md).
    can_cut: A sequence can be cut to any length, and shorter beginnings of it can be used.
    can_take_back: Wrong guesses can be taken back, so a sequence can at least be cut to where a
    span of it has kept (Span.keeps). Otherwise there are no guesses.
    num_snapshots: That many tokens at the end of the last pass can be taken back without computing
    others again.
    num_branches: So many further sequences, whose ids follow, hold other continuations of a draft's
    texts. Their cells are free whenever others need them: then make_room() empties all of them.
    emulated: The answers or their times are not those of a real model on this machine.
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
    can_cut: bool
    can_take_back: bool
    num_snapshots: int = 0
    num_branches: int = 0
    emulated: bool = False
    traits: ModelTraits = field(default_factory=ModelTraits)

    @property
    def max_length(self) -> int:
        """The most positions that a sequence can have."""
        return min(self.num_cells, self.context_length)


class Sequences(Protocol):
    """A language model with many sequences in one cache. It is not thread-safe."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def num_threads(self) -> int:
        """The threads of passes at present; they change where other processes use the cores."""

    def forward(self, spans: Sequence[Span]) -> Logits:
        """Run all spans in one pass; returns (rows, num_vocab) logits in the order of the spans.

        The array is a view that the next call overwrites. Raises InvalidInputError, before
        anything is changed, and CacheFullError when there are too few cells.
        """

    def truncate(self, seq_id: int, length: int) -> None:
        """Keep the first `length` positions of a sequence; 0 frees it."""

    def num_pending(self, seq_id: int) -> int:
        """Returns how many of a sequence's positions its next pass computes again.

        There are some where a model with recurrent layers took guesses back. They count as present.
        """

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Have `target` share the first `length` positions of `source`.

        It must be empty, have a beginning of these already from an earlier copy, or be a branch,
        which loses all that it does not share with `source`.
        """

    def shortest(self, seq_id: int) -> int:
        """Returns the least length to which a sequence can be copied.

        It is 0 unless the cache lacks keys and values that shorter texts need: a recurrent model
        has one state, and of a text that was saved, a model with a sliding window has the last
        window alone.
        """

    def length(self, seq_id: int) -> int:
        """Returns the number of positions of a sequence that are in the cache."""

    def free_cells(self) -> int:
        """Returns the number of cells that new tokens can take, if necessary after a compaction."""

    def make_room(self, num_tokens: int) -> None:
        """Empty the branches now if the next pass, of at most so many tokens, would do so.

        Raises CacheFullError.
        """

    def close(self) -> None: ...


class Model(Sequences, Protocol):
    """A language model that can save its sequences to host memory."""

    def save(self, seq_id: int) -> SavedPrefix:
        """Returns a copy of a sequence, which must not be empty and stays in the cache."""

    def restore(self, seq_id: int, saved: SavedPrefix, length: int) -> None:
        """Restore the first `length` positions of `saved` to an empty sequence.

        The logits after it have the same bits as those after the original sequence. All of `saved`
        takes cells for a moment. Raises CacheFullError when there are too few of them.
        """

    def compact(self) -> None:
        """Rewrite the cache without garbage now. It happens by itself where it is necessary."""

    def metadata(self, key: str) -> str:
        """Returns a text of the model file's metadata; "" if there is none."""


class Tokenizer(Protocol):
    """Converts text to token ids and back. It is thread-safe."""

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a prompt; no part of the text is read as a control token."""

    def encode_chat(
        self, messages: Sequence[Message], *, date: str = "", tools: str = ""
    ) -> list[int]:
        """Returns the token ids of a conversation in the model's chat template.

        They end where the answer begins. Only the template can produce control tokens.
        date: The template's current date as YYYY-MM-DD; "" if it is unknown. tools: The functions
        that the model may call, the calls in messages, and variables of the template, as
        chat.tools.parse_tools reads them.
        Both methods may take some seconds, and raise InvalidInputError with one line for the
        client.
        """

    def piece(self, token_id: int) -> bytes:
        """Returns the bytes that a token adds to the text; b"" for control tokens."""


def check_spans(spans: Sequence[Span], info: EngineInfo, lengths: Sequence[int]) -> int:
    """Validate spans against an engine's limits; returns their number of tokens.

    lengths: positions in the cache of each sequence, branches included. All errors are found here
    because libllama aborts the process on some of them, such as n_tokens > n_batch.
    """
    num_tokens = 0
    seen: set[int] = set()
    for span in spans:
        if not 0 <= span.seq_id < len(lengths):
            raise InvalidInputError(f"sequence id {span.seq_id} outside 0..{len(lengths) - 1}")
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


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Returns the number of tokens at the beginning that two texts have in common."""
    low, high = 0, min(len(a), len(b))
    # Slices are compared in C, so for long prompts a binary search is faster than a loop.
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
