"""Recordings of a target and its drafts: what a replay answers with.

By law 1 a greedy text is fixed, and with it what a draft guesses at each of its positions given
all before. A run needs no more: once a guess is wrong the rest of them is rejected.

A file is JSON, compressed by zlib. Token ids are renumbered to those that occur.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodes.engine.protocol import ModelFileError

_FORMAT = "airdraft recording 1"
# What a recording of a few thousand texts has; more is not read.
_MAX_BYTES = 1 << 28
# Digits of a probability that are kept.
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class RecordedModel:
    """calibration: how a draft's confidence is to be read, if its file says so; else ""."""

    name: str
    sha256: str
    calibration: str = ""


@dataclass(frozen=True, slots=True)
class RecordedGuesses:
    """A draft on one text, given at each position all of the text before.

    token_ids: (n,) what it guesses. probabilities: (n,) its own, at T = 1, of these guesses.
    """

    token_ids: tuple[int, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RecordedText:
    """A prompt and the target's greedy answer.

    prompt: as a client would send it, in the chat template if `chat`. output_ids: (n,), with the
    token that ended the text, if one did. guesses: one for each draft of the recording.
    """

    kind: str
    prompt: str
    chat: bool
    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    guesses: tuple[RecordedGuesses, ...]

    def accepted(self, draft: int) -> tuple[bool, ...]:
        """(n,) whether the target takes a draft's guess of a position, those before being right."""
        pairs = zip(self.guesses[draft].token_ids, self.output_ids, strict=True)
        return tuple(guess == token_id for guess, token_id in pairs)

    def acceptance(self, draft: int) -> float:
        """Share of a draft's guesses that are accepted, all positions alike."""
        return sum(self.accepted(draft)) / len(self.output_ids)


@dataclass(frozen=True, slots=True)
class Recording:
    """Texts of one target with the guesses of its drafts.

    pieces: (num_vocab,) bytes that each token adds to a text. eog_ids: tokens that end one.
    """

    target: RecordedModel
    drafts: tuple[RecordedModel, ...]
    pieces: tuple[bytes, ...]
    eog_ids: tuple[int, ...]
    texts: tuple[RecordedText, ...]

    @property
    def num_vocab(self) -> int:
        return len(self.pieces)

    def draft_index(self, name: str) -> int:
        """Place of a draft by its name. Raises ModelFileError."""
        names = [draft.name for draft in self.drafts]
        if name not in names:
            known = ", ".join(names) or "none"
            raise ModelFileError(f"no draft {name!r} in the recording: it has {known}")
        return names.index(name)

    def texts_with(self, draft: str, low: float, high: float) -> tuple[RecordedText, ...]:
        """The texts on which a draft's acceptance is in [low, high). Raises ModelFileError."""
        index = self.draft_index(draft)
        return tuple(text for text in self.texts if low <= text.acceptance(index) < high)

    def vocab_hash(self) -> str:
        """Equal for the target and all drafts of a recording."""
        return _digest([[piece.hex() for piece in self.pieces], self.eog_ids])

    def content_hash(self) -> str:
        return _digest(_as_object(self))


def to_bytes(recording: Recording) -> bytes:
    """The file of a recording; probabilities are rounded to four digits."""
    return zlib.compress(_json(_as_object(recording)), 9)


def read_recording(path: Path) -> Recording:
    """Raises ModelFileError, one line, for what is no recording or was damaged."""
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"recording {path} cannot be read: {error.strerror}") from error
    try:
        unpacker = zlib.decompressobj()
        data = json.loads(unpacker.decompress(packed, _MAX_BYTES))
        if not unpacker.eof:
            raise ValueError("it is cut short or too large")
        if data["format"] != _FORMAT:
            raise ValueError(f"format {str(data['format'])[:40]!r} instead of {_FORMAT!r}")
        return _from_object(data)
    except (zlib.error, RecursionError) as error:
        raise ModelFileError(f"{path} is not a recording: {error}") from error
    except KeyError as error:
        raise ModelFileError(f"recording {path} is damaged: {error} is missing") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelFileError(f"recording {path} is damaged: {error}") from error


def _json(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


def _digest(data: Any) -> str:
    return hashlib.sha256(_json(data)).hexdigest()[:32]


def _as_object(recording: Recording) -> dict[str, Any]:
    models = (recording.target, *recording.drafts)
    return {
        "format": _FORMAT,
        "models": [[model.name, model.sha256, model.calibration] for model in models],
        # Bytes as characters of the same numbers: pieces need not be UTF-8.
        "pieces": [piece.decode("latin-1") for piece in recording.pieces],
        "eog_ids": recording.eog_ids,
        "texts": [
            {
                "kind": text.kind,
                "prompt": text.prompt,
                "chat": text.chat,
                "prompt_ids": text.prompt_ids,
                "output_ids": text.output_ids,
                "guess_ids": [guesses.token_ids for guesses in text.guesses],
                "probabilities": [
                    [round(p, _DIGITS) for p in guesses.probabilities] for guesses in text.guesses
                ],
            }
            for text in recording.texts
        ],
    }


def _from_object(data: Any) -> Recording:
    """Raises ValueError, TypeError, KeyError or AttributeError for what _as_object never gives."""
    target, *drafts = (RecordedModel(*map(_text, model)) for model in data["models"])
    pieces = tuple(_text(piece).encode("latin-1") for piece in data["pieces"])
    num_vocab = len(pieces)
    texts = tuple(_text_from(item, len(drafts), num_vocab) for item in data["texts"])
    eog_ids = _ids(data["eog_ids"], num_vocab)
    if not texts or not eog_ids:
        raise ValueError("a recording has a text and a token that ends texts")
    _check_prompts([text.prompt_ids for text in texts])
    return Recording(target, tuple(drafts), pieces, eog_ids, texts)


def _text_from(item: Any, num_drafts: int, num_vocab: int) -> RecordedText:
    prompt_ids, output_ids = (_ids(item[key], num_vocab) for key in ("prompt_ids", "output_ids"))
    guesses = tuple(
        RecordedGuesses(_ids(ids, num_vocab), _probabilities(each))
        for ids, each in zip(item["guess_ids"], item["probabilities"], strict=True)
    )
    lengths = {len(column) for g in guesses for column in (g.token_ids, g.probabilities)}
    if not prompt_ids or not output_ids:
        raise ValueError("a text has a prompt and an output")
    if len(guesses) != num_drafts or not lengths <= {len(output_ids)}:
        raise ValueError("each draft has one guess for each position of a text")
    if type(item["chat"]) is not bool:
        raise ValueError("chat is true or false")
    kind, prompt = _text(item["kind"]), _text(item["prompt"])
    return RecordedText(kind, prompt, item["chat"], prompt_ids, output_ids, guesses)


def _check_prompts(prompts: Sequence[tuple[int, ...]]) -> None:
    """A sequence must say which text it is as soon as its prompt is complete."""
    known = set(prompts)
    lengths = {len(prompt) for prompt in prompts}
    if len(known) < len(prompts):
        raise ValueError("a prompt occurs twice")
    for prompt in prompts:
        if any(prompt[:length] in known for length in lengths if length < len(prompt)):
            raise ValueError("a prompt begins with another one")


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{str(value)[:40]!r} is not a text")
    return value


def _ids(values: Any, num_vocab: int) -> tuple[int, ...]:
    if not all(type(value) is int and 0 <= value < num_vocab for value in values):
        raise ValueError(f"a token id outside 0..{num_vocab - 1}")
    return tuple(values)


def _probabilities(values: Any) -> tuple[float, ...]:
    # Rounded, so that a small one may be 0. NaN is refused too.
    if not all(type(value) in (int, float) and 0.0 <= value <= 1.0 for value in values):
        raise ValueError("a probability outside 0..1")
    return tuple(map(float, values))
