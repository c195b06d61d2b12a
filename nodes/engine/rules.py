"""What a request changes about raw logits before they are sampled; see sampling.py."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Final

from mesh.schema import MaxLen

MAX_BIASES: Final = 1024
MAX_GRAMMAR_CHARS: Final = 1 << 16
GRAMMAR_KINDS: Final = ("json_schema", "gbnf", "tools")
_MAX_BIAS: Final = 100.0
_MAX_PENALTY: Final = 2.0


@dataclass(frozen=True, slots=True)
class LogitBias:
    token_id: int
    bias: float


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the text must be. kind: "" for anything, or one of GRAMMAR_KINDS."""

    kind: str = ""
    text: Annotated[str, MaxLen(MAX_GRAMMAR_CHARS)] = ""


@dataclass(frozen=True, slots=True)
class LogitRules:
    """Bias first, then penalties, then the grammar: tokens it does not allow are out.

    presence_penalty: taken off the logit of every token that the text has so far, prompt included;
    frequency_penalty: once for each time that it has it.
    """

    logit_bias: tuple[LogitBias, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    grammar: Grammar = field(default_factory=Grammar)

    def check(self) -> None:
        """Raises ValueError naming what is out of range."""
        if len(self.logit_bias) > MAX_BIASES:
            raise ValueError(f"logit_bias has {len(self.logit_bias)} entries, limit {MAX_BIASES}")
        for entry in self.logit_bias:
            if entry.token_id < 0:
                raise ValueError(f"logit_bias: token id {entry.token_id} is negative")
            if not abs(entry.bias) <= _MAX_BIAS:
                raise ValueError(f"logit_bias of token {entry.token_id}: {entry.bias} outside ±100")
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            if not (math.isfinite(value) and abs(value) <= _MAX_PENALTY):
                raise ValueError(f"{name} {value} outside -2..2")
        grammar = self.grammar
        if grammar.kind and grammar.kind not in GRAMMAR_KINDS:
            raise ValueError(f"grammar kind {grammar.kind!r} is none of {', '.join(GRAMMAR_KINDS)}")
        if bool(grammar.kind) != bool(grammar.text):
            raise ValueError("a grammar has a kind and a text")


NO_RULES: Final = LogitRules()
