"""Guesses for models with small recurrent states, of which libllama keeps those of the last tokens.

After a pass libllama can go back by some tokens (n_rs_seq), once and only before the next pass. It
copies some of these states wrong if the spans of a pass have different lengths. So the spans that
may be taken back run last, together and equally long, and a sequence is cut when it is known how
far: what a caller cuts and what padding there was is one cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.protocol import (
    EngineError,
    InvalidInputError,
    Logits,
    SavedPrefix,
    Span,
    check_spans,
)
from airdraft.nodes.engine.replay import equal_passes, padded
from airdraft.nodes.engine.states import Probed


class SnapshotModel(LlamaModel):
    """A LlamaModel with snapshots. Raises EngineError if its architecture has none."""

    def __init__(self, config: LlamaConfig, *, model_hash: str | None = None) -> None:
        # Lengths to which sequences are cut before the next pass.
        self._wanted: dict[int, int] = {}
        # Where the last pass of a sequence began, if it can still go back into that.
        self._began: dict[int, int] = {}
        # Sequences whose state is that of an earlier token: nothing else can share it.
        self._moved: set[int] = set()
        super().__init__(config, model_hash=model_hash)

    def _context_params(self, num_cells: int) -> Any:
        params = super()._context_params(num_cells)
        params.n_rs_seq = self.config.num_snapshots
        return params

    def _may_keep_states(self) -> bool:
        return False

    def _probe(self) -> Probed:
        if self._llama.llama_n_rs_seq(self._context) != self.config.num_snapshots:
            raise EngineError(f"{self._path.name}: libllama keeps no states of earlier tokens")
        return replace(super()._probe(), can_cut=False)

    def forward(self, spans: Sequence[Span]) -> Logits:
        self._settle()
        check_spans(spans, self.info, self._log.lengths)
        most = min(self.info.max_batch_tokens, int(self._llama.llama_n_ubatch(self._context)))
        room = self._room()
        first = equal_passes([span for span in spans if not span.keeps], most)
        last = [span for span in spans if span.keeps]
        longest = max((len(span.token_ids) for span in last), default=0)
        num_tokens = sum(len(span.token_ids) for part in first for span in part)
        num_last = longest * len(last)
        # So each of them can be cut to its first token.
        has_states = longest <= 1 + self.config.num_snapshots
        if has_states and num_last <= most and num_tokens + num_last <= room:
            passes = [*first, *([[padded(span, longest) for span in last]] if last else [])]
        else:
            # A pass of one sequence leaves the states of all others where they are.
            passes = [*first, *([span] for span in last)]
        logits = self._run_all(spans, passes)
        self._began = {span.seq_id: span.start for span in last}
        self._moved -= {span.seq_id for span in spans}
        for span in passes[-1] if last else ():
            if span.num_padding:
                self._wanted[span.seq_id] = span.start + len(span.token_ids) - span.num_padding
        return logits

    def _settle(self) -> None:
        """Cut the sequences to what was asked for, from the end of the log on."""
        wanted = sorted(self._wanted.items(), key=lambda item: -self._log.last_cell(item[0]))
        self._wanted.clear()
        for seq_id, length in wanted:
            super()._cut(seq_id, length)
            self._moved.add(seq_id)
            self._began.pop(seq_id, None)

    def _cut(self, seq_id: int, length: int) -> None:
        if length == 0:
            self._wanted.pop(seq_id, None)
            self._began.pop(seq_id, None)
            self._moved.discard(seq_id)
            super()._cut(seq_id, 0)
            return
        num_cells = self._log.length(seq_id)
        is_before = length <= self._began.get(seq_id, num_cells)
        if is_before or num_cells - length > self.config.num_snapshots:
            raise InvalidInputError(f"sequence {seq_id} has no state to go back to {length} tokens")
        self._wanted[seq_id] = length

    def length(self, seq_id: int) -> int:
        length = super().length(seq_id)
        return min(length, self._wanted.get(seq_id, length))

    def shortest(self, seq_id: int) -> int:
        return self.length(seq_id)

    def free_cells(self) -> int:
        unsettled = (self._log.length(seq_id) - length for seq_id, length in self._wanted.items())
        return super().free_cells() + sum(unsettled)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        self._settle()
        if source in self._moved:
            # libllama would share the state of its newest token.
            saved = self.save(source)
            self.truncate(source, 0)
            self.restore(source, saved, saved.length)
        super().copy_prefix(source, target, length)

    def save(self, seq_id: int) -> SavedPrefix:
        self._settle()
        return super().save(seq_id)

    def compact(self, num_tokens: int = 0) -> None:
        self._settle()
        super().compact(num_tokens)
        self._moved.clear()
        self._began.clear()
