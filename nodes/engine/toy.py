"""An exact integer model: the logits of a position are a hash of the tokens before it.

It has no rounding and no ties that depend on order, so tests may compare its texts for equality. A
draft agrees with its target on a chosen fraction of contexts. A pass takes the time that the CPU
needs, or at least the configured time. So a test that acts while a text is being made does not
depend on the speed of the machine.

`--model toy:AGREEMENT` selects it; `toy:0.8@5ms` has passes of at least 5 ms.
"""

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

_MASK64 = (1 << 64) - 1
TOY_EOG = 0


def _mix(x: int) -> int:
    x = ((x ^ (x >> 32)) * 0xD6E8FEB86659FD93) & _MASK64
    x = ((x ^ (x >> 32)) * 0xD6E8FEB86659FD93) & _MASK64
    return x ^ (x >> 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyConfig:
    """The settings of a toy.

    agreement: The fraction of contexts in which a draft's logits equal the target's; 1 for the
    target. pass_s: The least time of a pass, in seconds.
    """

    num_vocab: int = 96
    num_cells: int = 4096
    max_sequences: int = 16
    max_batch_tokens: int = 256
    agreement: float = 1.0
    seed: int = 0
    eog_rate: float = 0.0
    pass_s: float = 0.0


class ToyModel:
    """Implements the Model protocol with integers. Token 0 ends a text."""

    def __init__(
        self, config: ToyConfig | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.config = config = config or ToyConfig()
        self._sleep = sleep
        # For each position a hash of the tokens up to it.
        self._states: list[list[int]] = [[] for _ in range(config.max_sequences)]
        self._ids = np.arange(config.num_vocab, dtype=np.uint64)
        self.num_forward_passes = 0

    @property
    def info(self) -> EngineInfo:
        config = self.config
        return EngineInfo(
            engine="toy",
            model=f"toy-{config.agreement:g}",
            model_hash=f"toy-{config.seed}-{config.agreement:g}",
            vocab_hash=f"toy-{config.num_vocab}",
            num_vocab=config.num_vocab,
            num_cells=config.num_cells,
            max_sequences=config.max_sequences,
            max_batch_tokens=config.max_batch_tokens,
            context_length=config.num_cells,
            eog_token_ids=frozenset({TOY_EOG}),
            exact=True,
            numerics_class="integers",
            can_roll_back=True,
            emulated=True,
        )

    def forward(self, spans: Sequence[Span]) -> Logits:
        num_tokens = check_spans(spans, self.info, [len(s) for s in self._states])
        if num_tokens > self.free_cells():
            raise CacheFullError(num_tokens, self.free_cells(), self.config.num_cells)
        self.num_forward_passes += 1
        if self.config.pass_s:
            self._sleep(self.config.pass_s)
        rows = []
        for span in spans:
            states = self._states[span.seq_id]
            first_output = len(span.token_ids) - span.num_outputs
            for index, token_id in enumerate(span.token_ids):
                before = states[-1] if states else _mix(self.config.seed + 1)
                states.append(_mix(before ^ _mix(token_id + 0x1234567)))
                if index >= first_output:
                    rows.append(self._row(states[-1]))
        if not rows:
            return np.empty((0, self.config.num_vocab), dtype=np.float32)
        return np.stack(rows)

    def _row(self, state: int) -> Logits:
        differs = (_mix(state ^ 0xABCDEF) >> 11) * 2.0**-53 >= self.config.agreement
        key = _mix(state + 77) if differs else state
        bits = (self._ids + np.uint64(key)) * np.uint64(0x9E3779B97F4A7C15)
        bits ^= bits >> np.uint64(29)
        bits *= np.uint64(0xBF58476D1CE4E5B9)
        # 0..8 in steps of 1/512: exact in float32, with few ties, and many tokens can be sampled.
        row = (bits >> np.uint64(52)).astype(np.float32) / 512.0
        if (_mix(key ^ 0x5A5A5A) >> 11) * 2.0**-53 >= self.config.eog_rate:
            row[TOY_EOG] = -64.0
        else:
            row[TOY_EOG] = 64.0
        return row

    def truncate(self, seq_id: int, length: int) -> None:
        states = self._sequence(seq_id)
        if not 0 <= length <= len(states):
            raise InvalidInputError(f"sequence {seq_id}: cannot keep {length} of {len(states)}")
        del states[length:]

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        if self._sequence(target):
            raise InvalidInputError(f"sequence {target} is not empty")
        if not 0 < length <= len(self._sequence(source)):
            raise InvalidInputError(f"sequence {source} has no {length} positions")
        self._states[target] = self._states[source][:length]

    def save(self, seq_id: int) -> SavedPrefix:
        states = self._sequence(seq_id)
        if not states:
            raise InvalidInputError(f"sequence {seq_id} is empty")
        return SavedPrefix(len(states), np.array(states, dtype=np.uint64).view(np.uint8))

    def restore(self, seq_id: int, saved: SavedPrefix, length: int) -> None:
        if self._sequence(seq_id):
            raise InvalidInputError(f"sequence {seq_id} is not empty")
        if not 0 < length <= saved.length:
            raise InvalidInputError(f"{length} positions wanted, {saved.length} were saved")
        if saved.length > self.free_cells():
            raise CacheFullError(saved.length, self.free_cells(), self.config.num_cells)
        self._states[seq_id] = saved.state.view(np.uint64)[:length].tolist()

    def length(self, seq_id: int) -> int:
        return len(self._sequence(seq_id))

    def _sequence(self, seq_id: int) -> list[int]:
        if not 0 <= seq_id < len(self._states):
            raise InvalidInputError(f"sequence id {seq_id} out of range")
        return self._states[seq_id]

    def free_cells(self) -> int:
        return self.config.num_cells - sum(len(s) for s in self._states)

    def close(self) -> None:
        self._states = [[] for _ in range(self.config.max_sequences)]


class ToyTokenizer:
    """Maps bytes to tokens, modulo the toy's vocabulary."""

    def __init__(self, num_vocab: int) -> None:
        self._num_vocab = num_vocab

    def encode(self, text: str) -> list[int]:
        if not text:
            raise InvalidInputError("the prompt is empty")
        return [1 + byte % (self._num_vocab - 1) for byte in text.encode()]

    def encode_chat(
        self, messages: Sequence[Message], *, date: str = "", tools: str = ""
    ) -> list[int]:
        """Encode the contents of the messages, which are joined by line breaks."""
        return self.encode("\n".join(content for _, content in messages))

    def piece(self, token_id: int) -> bytes:
        return b"" if token_id == TOY_EOG else b" %d" % token_id
