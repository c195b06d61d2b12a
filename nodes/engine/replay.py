"""Emulated hardware: a model that answers from a recording with the delays of another device."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nodes.engine.protocol import (
    CacheFullError,
    EngineInfo,
    InvalidInputError,
    Logits,
    Message,
    SavedPrefix,
    Span,
    check_spans,
)
from nodes.engine.recording import Recording
from nodes.engine.script import Passage, Script
from policies.latency import NodeCosts

# A sleep ends a little late, and the next pass is shorter by that much. Longer delays, which are
# stalls of this machine, are not made up for.
_MOST_OVERSLEPT_S = 5e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayConfig:
    """What a replay answers with, and its costs.

    draft: The name of a draft of the recording; "" for its target.
    """

    name: str
    recording: Recording
    costs: NodeCosts
    draft: str = ""
    num_cells: int = 8192
    max_sequences: int = 16
    max_batch_tokens: int = 256


class ReplayModel:
    """Implements the Model protocol with a recording. A pass sleeps until `costs` are reached.

    now, sleep: The clock of the passes, in seconds.
    """

    def __init__(
        self,
        config: ReplayConfig,
        *,
        now: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.config = config
        self._now, self._sleep = now, sleep
        self._overslept_s = 0.0
        recording = config.recording
        self._draft = recording.draft_index(config.draft) if config.draft else None
        self._script = Script(recording, self._draft)
        self._passages = [Passage()] * config.max_sequences
        self._info = self._describe()

    def _describe(self) -> EngineInfo:
        config, recording = self.config, self.config.recording
        content = recording.content_hash()
        return EngineInfo(
            engine="replay",
            model=config.name,
            model_hash=f"replay-{content}-{config.draft}",
            vocab_hash=f"replay-{recording.vocab_hash()}",
            num_vocab=recording.num_vocab,
            num_cells=config.num_cells,
            max_sequences=config.max_sequences,
            max_batch_tokens=config.max_batch_tokens,
            context_length=config.num_cells,
            eog_token_ids=frozenset(recording.eog_ids),
            exact=True,
            numerics_class=f"replay-{content}",
            can_roll_back=True,
            emulated=True,
        )

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def calibration(self) -> str:
        """The calibration of a draft's confidence from its model file; "" if there is none."""
        return "" if self._draft is None else self.config.recording.drafts[self._draft].calibration

    def forward(self, spans: Sequence[Span]) -> Logits:
        began = self._now()
        num_tokens = check_spans(spans, self._info, [len(p.token_ids) for p in self._passages])
        if num_tokens > self.free_cells():
            raise CacheFullError(num_tokens, self.free_cells(), self.config.num_cells)
        grown = [self._script.grown(self._passages[span.seq_id], span) for span in spans]
        used_cells = self.config.num_cells - self.free_cells()
        seconds = pass_seconds(self.config.costs, spans, used_cells)
        num_rows = sum(span.num_outputs for span in spans)
        logits = np.zeros((num_rows, self._info.num_vocab), dtype=np.float32)
        row = 0
        for span, passage in zip(spans, grown, strict=True):
            self._passages[span.seq_id] = passage
            end = len(passage.token_ids)
            for position in range(end - span.num_outputs + 1, end + 1):
                self._script.fill(logits[row], passage, position)
                row += 1
        self._wait_until(began + seconds - self._overslept_s)
        return logits

    def _wait_until(self, when: float) -> None:
        left = when - self._now()
        if left > 0:
            self._sleep(left)
            self._overslept_s = min(_MOST_OVERSLEPT_S, max(0.0, self._now() - when))

    def truncate(self, seq_id: int, length: int) -> None:
        if not 0 <= length <= self.length(seq_id):
            raise InvalidInputError(
                f"sequence {seq_id}: cannot keep {length} of {self.length(seq_id)}"
            )
        self._passages[seq_id] = self._passages[seq_id].cut(length)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        if self.length(target):
            raise InvalidInputError(f"sequence {target} is not empty")
        if not 0 < length <= self.length(source):
            raise InvalidInputError(f"sequence {source} has no {length} positions")
        self._passages[target] = self._passages[source].cut(length)

    def save(self, seq_id: int) -> SavedPrefix:
        if not self.length(seq_id):
            raise InvalidInputError(f"sequence {seq_id} is empty")
        token_ids = self._passages[seq_id].token_ids
        return SavedPrefix(len(token_ids), np.array(token_ids, dtype=np.uint32).view(np.uint8))

    def restore(self, seq_id: int, saved: SavedPrefix, length: int) -> None:
        if self.length(seq_id):
            raise InvalidInputError(f"sequence {seq_id} is not empty")
        if not 0 < length <= saved.length:
            raise InvalidInputError(f"{length} positions wanted, {saved.length} were saved")
        if saved.length > self.free_cells():
            raise CacheFullError(saved.length, self.free_cells(), self.config.num_cells)
        token_ids = saved.state.view(np.uint32)[:length].tolist()
        self._passages[seq_id] = self._script.grown(Passage(), Span(seq_id, 0, token_ids))

    def length(self, seq_id: int) -> int:
        if not 0 <= seq_id < len(self._passages):
            raise InvalidInputError(f"sequence id {seq_id} out of range")
        return len(self._passages[seq_id].token_ids)

    def free_cells(self) -> int:
        return self.config.num_cells - sum(len(p.token_ids) for p in self._passages)

    def close(self) -> None:
        self._passages = [Passage()] * self.config.max_sequences


class ReplayTokenizer:
    """The prompts and pieces of a recording."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._prompts = {(text.prompt, text.chat): text.prompt_ids for text in recording.texts}

    def encode(self, text: str) -> list[int]:
        return self._recorded(text, is_chat=False)

    def encode_chat(
        self, messages: Sequence[Message], *, date: str = "", tools: str = ""
    ) -> list[int]:
        """Return the ids of a recorded prompt; only single messages of a user are recorded."""
        text = messages[0][1] if [role for role, _ in messages] == ["user"] else ""
        return self._recorded(text, is_chat=True)

    def _recorded(self, text: str, *, is_chat: bool) -> list[int]:
        prompt_ids = self._prompts.get((text, is_chat))
        if prompt_ids is None:
            recording = self._recording
            raise InvalidInputError(
                f"the prompt is not one of the {len(recording.texts)} recorded prompts of "
                f"{recording.target.name}"
            )
        return list(prompt_ids)

    def piece(self, token_id: int) -> bytes:
        if not 0 <= token_id < self._recording.num_vocab:
            raise InvalidInputError(f"token id {token_id} outside the recording's vocabulary")
        return self._recording.pieces[token_id]


def pass_seconds(costs: NodeCosts, spans: Sequence[Span], used_cells: int) -> float:
    """Return the seconds of a pass by a node's costs, which do not depend on a token's sequence.

    used_cells: The cells in use before the pass.
    """
    num_tokens = sum(len(span.token_ids) for span in spans)
    own_cells = sum(span.start * len(span.token_ids) for span in spans) / num_tokens
    table = costs.decode if any(span.num_outputs for span in spans) else costs.prefill
    return table.at(num_tokens, used_cells, own_cells)
