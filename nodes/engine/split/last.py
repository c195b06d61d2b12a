"""The last stage of a split model, which is a target's engine: tokens in, logits out.

The stages before it are behind Ahead. They have the same sequences; each has its own log of cells,
compacts it and lets it grow by itself. A long pass goes through the stages in pieces, so that all
of them work at the same time; no bit depends on where it is cut.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, Protocol

import numpy as np

from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.protocol import (
    EngineError,
    EngineInfo,
    Logits,
    Rows,
    SavedPrefix,
    SequencesLostError,
    Span,
    check_spans,
)
from airdraft.nodes.engine.split.embedding import Embedding
from airdraft.nodes.engine.split.stage import Piece, RowModel

logger = logging.getLogger(__name__)

# Tokens of a piece. With two stages a pass of 16 streams with 4 tokens each took 0.76 of the whole
# model's time in pieces of 16, 0.85 in pieces of 32 and 1.03 in one of 64; for 2 tokens each it was
# 0.88, 1.03 and 1.01, and prompts differed little (Qwen2.5-Coder 1.5B, a core each, a round trip of
# 5 ms, 2026-12-02). Passes that leave a small last piece lose nothing: 20 tokens took 1.04, in one
# piece 1.03. A whole pass of 8 takes 0.71 of one of 16, too much for pieces of 8 to pay.
PIECE_TOKENS: Final = 16
# A stage that is lost again and again may be lost because of what it is asked to do. With the
# fourth loss in a minute the target ends, and the coordinator finds out which request ends targets.
_MOST_LOSSES: Final = 3
_WITHIN_S: Final = 60.0
# The weight of the last pass in the share of its time that this machine worked.
_SHARE_RATE: Final = 0.1


class StageLostError(EngineError):
    """A stage cannot be reached, or has failed. The message names it."""


class Ahead(Protocol):
    """All stages before the last one. What is asked of them is done in this order.

    slot: A number for a saved sequence, which stays where it was saved.
    """

    @property
    def most_tokens(self) -> int:
        """The most tokens of one pass."""

    @property
    def saved_bytes_a_block(self) -> float:
        """What saved sequences may take of each block, in the stage that has the least room."""

    def open(self, info: EngineInfo) -> int:
        """Begin with empty sequences; returns the cells that all stages have room for.

        info: of the last stage. After a StageLostError this is called again. Raises EngineError if
        a stage cannot have its part of the model.
        """

    def begin(self, pieces: Sequence[Piece], rows: Rows) -> None:
        """Let a pass begin; several may be under way. rows: (tokens, width) of its tokens."""

    def finish(self) -> Rows:
        """Wait for the oldest pass that began; returns its (tokens, width) rows.

        Raises StageLostError, as begin() does.
        """

    def cut(self, seq_id: int, length: int) -> None: ...

    def keep(self, seq_id: int) -> None: ...

    def make_room(self, num_tokens: int) -> None: ...

    def copy(self, source: int, target: int, length: int) -> None: ...

    def save(self, slot: int, seq_id: int) -> None: ...

    def restore(self, slot: int, seq_id: int) -> None: ...

    def drop(self, slot: int) -> None: ...

    def close(self) -> None: ...


class SplitModel(RowModel):
    """Implements the Model protocol with the last stage and those before it."""

    piece_tokens = PIECE_TOKENS

    def __init__(
        self, config: LlamaConfig, ahead: Ahead, embedding: Embedding, *, model_hash: str
    ) -> None:
        """model_hash: Of the whole model, whose numerics class this one has if its bits are equal.

        Raises EngineError.
        """
        self._ahead, self._embedding = ahead, embedding
        self._slots = itertools.count()
        # The slot of each saved text that somebody may restore.
        self._slot_of: weakref.WeakKeyDictionary[SavedPrefix, int] = weakref.WeakKeyDictionary()
        super().__init__(config, model_hash=model_hash)
        # As the stages know this one: before its self-test.
        self._untested = self.info
        # When the last losses were.
        self._losses = deque[float](maxlen=_MOST_LOSSES)
        # When each pass under way began, and its parts.
        self._begun: list[tuple[float, list[list[Span]]]] = []
        self._own_share = 0.0
        # Whether a stage may compact its cache before the wrong guesses of a pass are cut.
        self._may_overlap = self.info.can_cut and not self._llama.llama_model_n_swa(self._model)
        try:
            num_cells = self._open_ahead()
        except BaseException:
            self.close()
            raise
        self.info = replace(self.info, num_cells=min(self._size.limit, num_cells))

    def _open_ahead(self) -> int:
        """Returns the cells that all stages before this one have room for."""
        num_cells = self._ahead.open(self._untested)
        self._size.limit = max(self._size.now, min(self._size.limit, num_cells))
        return num_cells

    # -- passes, of which several may be under way -------------------------------------------------

    @property
    def own_share(self) -> float:
        return self._own_share

    def forward(self, spans: Sequence[Span]) -> Logits:
        """As in Model. Raises SequencesLostError, too, if a stage was lost and is back."""
        if self._replay is not None:
            return super().forward(spans)
        self.begin(spans)
        return self.finish()

    def _compute(self, spans: Sequence[Span]) -> Logits:
        self._begin(spans)
        return self.finish()

    def begin(self, spans: Sequence[Span]) -> None:
        """As in target.choosing.Pipelined. Raises SequencesLostError as forward() does."""
        num_tokens = check_spans(spans, self.info, self._log.lengths)
        # Those of passes under way are not in the cache yet.
        waiting = sum(len(s.token_ids) for _, parts in self._begun for part in parts for s in part)
        self.make_room(num_tokens + waiting)
        self._begin(spans)

    def _begin(self, spans: Sequence[Span]) -> None:
        most = min(PIECE_TOKENS, self._ahead.most_tokens)
        parts = list(_in_pieces(spans, most, is_whole=not self.info.can_cut))
        with self._opened_anew():
            for part in parts:
                pieces = [Piece(span.seq_id, span.start, len(span.token_ids)) for span in part]
                token_ids = itertools.chain.from_iterable(span.token_ids for span in part)
                self._ahead.begin(pieces, self._embedding.rows_of(token_ids))
        self._begun.append((time.monotonic(), parts))

    def finish(self) -> Logits:
        began, parts = self._begun[0]
        found, own_s = list[Logits](), 0.0
        with self._opened_anew():
            for part in parts:
                rows = self._ahead.finish()
                self._batch.rows[: len(rows)] = rows
                came = time.monotonic()
                logits = self._run(part)
                own_s += time.monotonic() - came
                # The next pass overwrites the logits of this one.
                found.append(logits.copy() if len(parts) > 1 else logits)
        del self._begun[0]
        # While it is unknown, there is one group: with two, stages make room while a pass is under
        # way.
        if len(parts) == 1 and not self._begun and self._may_overlap:
            share = own_s / (time.monotonic() - began)
            self._own_share += _SHARE_RATE * (share - self._own_share) if self._own_share else share
        return found[0] if len(found) == 1 else np.concatenate(found)

    @contextlib.contextmanager
    def _opened_anew(self) -> Iterator[None]:
        """Open the stages again if one is lost in the block, and tell that sequences are lost."""
        try:
            yield
        except StageLostError as error:
            self._begun.clear()
            now, losses = time.monotonic(), self._losses
            if len(losses) == _MOST_LOSSES and now - losses[0] < _WITHIN_S:
                raise
            losses.append(now)
            self._begin_anew(error)
            raise SequencesLostError(str(error)) from error

    def _begin_anew(self, lost: StageLostError) -> None:
        """Open the stages again, with empty sequences. Raises EngineError if one stays away."""
        logger.warning("%s: waiting for it", lost)
        for seq_id in range(self.config.max_sequences):
            self.truncate(seq_id, 0)
        self._slot_of.clear()
        self._open_ahead()
        logger.info("all stages are there again")

    @property
    def most_saved_bytes(self) -> float:
        """What saved sequences may take here, so that all stages have room for theirs."""
        # Cells of all blocks are equally large.
        num_blocks = int(self._llama.llama_model_n_layer(self._model))
        return self._ahead.saved_bytes_a_block * num_blocks

    def make_room(self, num_tokens: int) -> None:
        self._ahead.make_room(num_tokens)
        super().make_room(num_tokens)

    def _cut_cells(self, seq_id: int, length: int) -> None:
        self._ahead.cut(seq_id, length)
        super()._cut_cells(seq_id, length)

    def _keep_state(self, seq_id: int) -> None:
        self._ahead.keep(seq_id)
        super()._keep_state(seq_id)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        super().copy_prefix(source, target, length)
        self._ahead.copy(source, target, min(length, self._log.length(source)))

    def save(self, seq_id: int) -> SavedPrefix:
        saved = super().save(seq_id)
        slot = self._slot_of[saved] = next(self._slots)
        self._ahead.save(slot, seq_id)
        weakref.finalize(saved, self._ahead.drop, slot)
        return saved

    def restore(self, seq_id: int, saved: SavedPrefix, length: int) -> None:
        if saved not in self._slot_of:
            raise EngineError("a text that other stages have saved cannot be restored")
        # Both are cut afterwards.
        self._ahead.restore(self._slot_of[saved], seq_id)
        super().restore(seq_id, saved, length)

    def close(self) -> None:
        self._ahead.close()
        super().close()


def _in_pieces(spans: Sequence[Span], most: int, *, is_whole: bool) -> Iterator[list[Span]]:
    """Yield the spans of a pass in passes of at most `most` tokens, in their order.

    is_whole: whether spans stay whole where they can, because equally long ones run together.
    """
    part, room = list[Span](), most
    for span in spans:
        start = 0
        if len(span.token_ids) > room and part and is_whole:
            yield part
            part, room = [], most
        # The rows that are wanted, in front of padding.
        outputs_end = len(span.token_ids) - span.num_padding
        while start < len(span.token_ids):
            end = min(start + room, len(span.token_ids))
            padding = max(0, end - max(start, outputs_end))
            first_output = max(start, outputs_end - span.num_outputs)
            num_outputs = max(0, end - padding - first_output)
            piece = Span(
                span.seq_id,
                span.start + start,
                span.token_ids[start:end],
                num_outputs,
                num_padding=padding,
            )
            part.append(piece)
            start, room = end, room - len(piece.token_ids)
            if not room:
                yield part
                part, room = [], most
    if part:
        yield part
