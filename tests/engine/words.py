"""Vocabularies of a few words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class Words:
    """A vocabulary of these pieces; an empty one is a control token called after its id."""

    pieces: Sequence[bytes]
    ends: frozenset[int] = frozenset({0})
    first: tuple[int, ...] = ()
    names: Mapping[bytes, int] = field(default_factory=dict)

    @property
    def num_vocab(self) -> int:
        return len(self.pieces)

    def piece(self, token_id: int) -> bytes:
        return self.pieces[token_id]

    def controls(self) -> Mapping[bytes, int]:
        return self.names

    def eog_token_ids(self) -> frozenset[int]:
        return self.ends

    def first_token_ids(self) -> tuple[int, ...]:
        return self.first

    def inner_tokens(self, text: str) -> list[int]:
        data, found = text.encode(), []
        while data:
            length = max(k for k in range(1, len(data) + 1) if data[:k] in self.pieces)
            found.append(self.pieces.index(data[:length]))
            data = data[length:]
        return found
