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

from airdraft.nodes.engine.emulated import EmulatedModel
from airdraft.nodes.engine.protocol import EngineInfo, InvalidInputError, Logits, Message, Span

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
    target. swapped: The fraction of the other contexts in which only the target's two likeliest
    tokens have changed places. pass_s: The least time of a pass, in seconds.
    """

    num_vocab: int = 96
    num_cells: int = 4096
    max_sequences: int = 16
    max_batch_tokens: int = 256
    num_branches: int = 0
    agreement: float = 1.0
    swapped: float = 0.0
    seed: int = 0
    eog_rate: float = 0.0
    pass_s: float = 0.0


class ToyModel(EmulatedModel):
    """Implements the Model protocol with integers. Token 0 ends a text.

    A sequence has for each position a hash of the tokens up to it.
    """

    saved_type = np.uint64

    def __init__(
        self, config: ToyConfig | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.config = config = config or ToyConfig()
        self._sleep = sleep
        self._ids = np.arange(config.num_vocab, dtype=np.uint64)
        self.num_forward_passes = 0
        info = EngineInfo(
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
            can_cut=True,
            can_take_back=True,
            num_branches=config.num_branches,
            emulated=True,
        )
        super().__init__(info)

    def forward(self, spans: Sequence[Span]) -> Logits:
        self._check(spans)
        self.num_forward_passes += 1
        if self.config.pass_s:
            self._sleep(self.config.pass_s)
        rows: list[Logits] = []
        for span in spans:
            hashes = list(self._sequences[span.seq_id])
            for token_id in span.token_ids:
                before = hashes[-1] if hashes else _mix(self.config.seed + 1)
                hashes.append(_mix(before ^ _mix(token_id + 0x1234567)))
            self._sequences[span.seq_id] = tuple(hashes)
            rows += map(self._row, hashes[len(hashes) - span.num_outputs :])
        if not rows:
            return np.empty((0, self.config.num_vocab), dtype=np.float32)
        return np.stack(rows)

    def _row(self, state: int) -> Logits:
        differs = (_mix(state ^ 0xABCDEF) >> 11) * 2.0**-53 >= self.config.agreement
        is_swapped = differs and (_mix(state + 33) >> 11) * 2.0**-53 < self.config.swapped
        key = _mix(state + 77) if differs and not is_swapped else state
        bits = (self._ids + np.uint64(key)) * np.uint64(0x9E3779B97F4A7C15)
        bits ^= bits >> np.uint64(29)
        bits *= np.uint64(0xBF58476D1CE4E5B9)
        # 0..8 in steps of 1/512: exact in float32, with few ties, and many tokens can be sampled.
        row = (bits >> np.uint64(52)).astype(np.float32) / 512.0
        if (_mix(key ^ 0x5A5A5A) >> 11) * 2.0**-53 >= self.config.eog_rate:
            row[TOY_EOG] = -64.0
        else:
            row[TOY_EOG] = 64.0
        if is_swapped:
            best = np.argsort(-row, kind="stable")[:2]
            row[best] = row[best[::-1]]
        return row


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
