"""Recordings of a target and its drafts, from which a replay answers.

By law 1 a greedy text is fixed, and so are the choices of a draft at each position, given all
tokens before it. A replay needs no more, because all guesses after a wrong one are rejected.

A file is JSON, compressed by zlib. Token ids are renumbered, so that all of them occur.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from airdraft.nodes.engine.protocol import ModelFileError
from bench.results.schema import problem_of

# Longer files are not read. A recording of a few thousand texts has as many bytes.
_MAX_BYTES = 1 << 28
# A file has four decimals of a probability.
Probability = Annotated[float, PlainSerializer(lambda p: round(p, 4))]
# Latin-1 maps bytes to characters of the same numbers; pieces need not be UTF-8.
Piece = Annotated[
    bytes,
    BeforeValidator(lambda piece: piece.encode("latin-1") if isinstance(piece, str) else piece),
    PlainSerializer(lambda piece: piece.decode("latin-1")),
]


@dataclass(frozen=True, slots=True)
class RecordedModel:
    """A recorded model. calibration: That of a draft's confidence from its file; "" for none."""

    name: str
    sha256: str
    calibration: str = ""


@dataclass(frozen=True, slots=True)
class RecordedGuesses:
    """The guesses of a draft for one text, at each position given all of the text before.

    token_ids: (n,) the guesses. probabilities: (n,) the draft's own at T = 1. others: (n,) what it
    would have said otherwise, the likeliest first; () in older recordings.
    """

    token_ids: tuple[int, ...]
    probabilities: tuple[Probability, ...]
    others: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class RecordedText:
    """A prompt and the target's greedy answer.

    kind: chat, copy, code or another label. prompt: The message of a chat that a client sends.
    output_ids: (n,) ids, with the token that ended the text, if one did. guesses: One entry for
    each draft of the recording.
    """

    kind: str
    prompt: str
    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    guesses: tuple[RecordedGuesses, ...]

    def accepted(self, draft: int) -> tuple[bool, ...]:
        """Returns for each of n positions whether a draft's guess equals the target's token."""
        pairs = zip(self.guesses[draft].token_ids, self.output_ids, strict=True)
        return tuple(guess == token_id for guess, token_id in pairs)

    def acceptance(self, draft: int) -> float:
        """Returns the fraction of a draft's guesses that are accepted, over all positions."""
        return sum(self.accepted(draft)) / len(self.output_ids)


@dataclass(frozen=True, slots=True)
class Recording:
    """Texts of one target with the guesses of its drafts.

    pieces: (num_vocab,) bytes that each token adds to a text. eog_ids: The tokens that end a text.
    """

    target: RecordedModel
    drafts: tuple[RecordedModel, ...]
    pieces: tuple[Piece, ...]
    eog_ids: tuple[int, ...]
    texts: tuple[RecordedText, ...]
    format: Literal["airdraft recording 2"] = "airdraft recording 2"

    @property
    def num_vocab(self) -> int:
        return len(self.pieces)

    def draft_index(self, name: str) -> int:
        """Returns the index of a draft by its name. Raises ModelFileError."""
        names = [draft.name for draft in self.drafts]
        if name not in names:
            known = ", ".join(names) or "none"
            raise ModelFileError(f"the recording has no draft {name!r}: its drafts are {known}")
        return names.index(name)

    def texts_with(self, draft: str, low: float, high: float) -> tuple[RecordedText, ...]:
        """Returns the texts with a draft's acceptance in [low, high). Raises ModelFileError."""
        index = self.draft_index(draft)
        return tuple(text for text in self.texts if low <= text.acceptance(index) < high)

    def vocab_hash(self) -> str:
        """Returns the hash of the vocabulary, equal for the target and all drafts."""
        return _digest((self.pieces, self.eog_ids))

    def content_hash(self) -> str:
        return _digest(self)


_FILE = TypeAdapter(Recording)


def to_bytes(recording: Recording) -> bytes:
    """Returns a recording as bytes of a file; probabilities are rounded to four decimals."""
    return zlib.compress(_FILE.dump_json(recording), 9)


def read_recording(path: Path) -> Recording:
    """Read a recording. Raises ModelFileError, one line, if it is none or is damaged."""
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"recording {path} cannot be read: {error.strerror}") from error
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(packed, _MAX_BYTES)
        if not unpacker.eof:
            raise ValueError("it is truncated or too large")
        recording = _FILE.validate_json(data)
        _check_prompts([text.prompt_ids for text in recording.texts])
    except zlib.error as error:
        raise ModelFileError(f"{path} is not a recording: {error}") from error
    except ValidationError as error:
        raise ModelFileError(f"recording {path} is damaged: {problem_of(error)}") from error
    except ValueError as error:
        raise ModelFileError(f"recording {path} is damaged: {error}") from error
    return recording


def _digest(data: Any) -> str:
    return hashlib.sha256(repr(data).encode()).hexdigest()[:32]


def _check_prompts(prompts: Sequence[tuple[int, ...]]) -> None:
    """Raise ValueError unless a complete prompt identifies its text."""
    if not prompts:
        raise ValueError("it has no texts")
    # Prompts that begin alike are neighbours in this order.
    for one, other in pairwise(sorted(prompts)):
        if one == other:
            raise ValueError("a prompt occurs twice")
        if other[: len(one)] == one:
            raise ValueError("a prompt begins with another one")
