"""The rules by which a request changes raw logits before they are sampled; see sampling.py."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Final

from airdraft.mesh.schema import MaxLen

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
    """A grammar that the output must follow. kind: One of GRAMMAR_KINDS, or "" for no grammar."""

    kind: str = ""
    text: Annotated[str, MaxLen(MAX_GRAMMAR_CHARS)] = ""


@dataclass(frozen=True, slots=True)
class LogitRules:
    """The bias applies first, then penalties, then the grammar, which excludes tokens.

    presence_penalty: Subtracted from the logit of every token that occurs in prompt or output so
    far. frequency_penalty: Subtracted once for each of its occurrences.
    """

    logit_bias: tuple[LogitBias, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    grammar: Grammar = field(default_factory=Grammar)

    def check(self) -> None:
        """Check the ranges; raises ValueError that names the value."""
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
            kinds = ", ".join(GRAMMAR_KINDS)
            raise ValueError(f"grammar kind {grammar.kind!r} is not one of {kinds}")
        if bool(grammar.kind) != bool(grammar.text):
            raise ValueError("a grammar needs both a kind and a text")


NO_RULES: Final = LogitRules()
