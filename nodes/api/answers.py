"""Answers, and how they are put together from what a mesh tells. Pure."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from nodes.messages import FinishedNotice, StartedNotice, StreamFigures, TokensNotice
from nodes.messages.fingerprint import fingerprint


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new of one choice. finish_reason: "stop" or "length" in its last piece, else ""."""

    text: str
    token_ids: tuple[int, ...] = ()
    choice: int = 0
    finish_reason: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums over the choices of an answer. time_s: from asking to the end."""

    num_prompt_tokens: int
    num_tokens: int
    num_draft_tokens: int
    num_accepted_tokens: int
    num_rounds: int
    time_s: float

    @property
    def acceptance_rate(self) -> float | None:
        """Share of the guesses that were right; None if none were made."""
        return self.num_accepted_tokens / self.num_draft_tokens if self.num_draft_tokens else None

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.time_s if self.time_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer. text, token_ids and finish_reason are those of its first choice.

    seed: with it, the same request becomes the same text wherever the fingerprint is the same. It
    names model_hash and numerics_class. is_exact: whether that holds, whatever else the mesh does.
    plain_reason: why it was decoded without guesses at the end, or "".
    """

    choices: tuple[Choice, ...]
    seed: int
    usage: Usage
    target: str
    is_exact: bool
    plain_reason: str
    model_hash: str
    numerics_class: str

    @property
    def fingerprint(self) -> str:
        """As the option of this name takes it."""
        return fingerprint(self.model_hash, self.numerics_class)

    @property
    def text(self) -> str:
        return self.choices[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.choices[0].token_ids

    @property
    def finish_reason(self) -> str:
        return self.choices[0].finish_reason


class _Part:
    """One choice while it comes. A character may be cut between two messages."""

    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.texts: list[str] = []
        self.token_ids: list[int] = []
        self.figures: StreamFigures | None = None
        self.finish_reason = ""

    def take(self, text: bytes, *, final: bool = False) -> str:
        new = self.decoder.decode(text, final)
        self.texts.append(new)
        return new


class Assembly:
    """Notices in, pieces out, and in the end the whole answer."""

    def __init__(self, num_choices: int) -> None:
        self._parts = [_Part() for _ in range(num_choices)]
        self._started: StartedNotice | None = None

    @property
    def seed(self) -> int | None:
        return None if self._started is None else self._started.seed

    def take(self, event: object) -> Piece | None:
        """The piece that an event makes, if it makes one."""
        match event:
            case StartedNotice():
                self._started = event
            case TokensNotice():
                part = self._parts[event.choice]
                part.token_ids += event.token_ids
                return Piece(part.take(event.text), event.token_ids, event.choice)
            case FinishedNotice():
                part = self._parts[event.choice]
                part.figures, part.finish_reason = event.figures, event.finish_reason
                return Piece(part.take(b"", final=True), (), event.choice, event.finish_reason)
        return None

    @property
    def is_complete(self) -> bool:
        return all(part.figures is not None for part in self._parts)

    def completion(self, time_s: float) -> Completion:
        """Of a request all of whose choices have finished."""
        started, parts = self._started, self._parts
        assert started is not None
        figures = [part.figures for part in parts if part.figures is not None]
        assert len(figures) == len(parts)
        reasons = [f.plain_reason for f in figures if f.plain_reason]
        return Completion(
            choices=tuple(
                Choice("".join(p.texts), tuple(p.token_ids), p.finish_reason) for p in parts
            ),
            seed=started.seed,
            usage=Usage(
                num_prompt_tokens=started.num_prompt_tokens,
                num_tokens=sum(len(part.token_ids) for part in parts),
                num_draft_tokens=sum(f.num_draft_tokens for f in figures),
                num_accepted_tokens=sum(f.num_accepted_tokens for f in figures),
                num_rounds=sum(f.num_rounds for f in figures),
                time_s=time_s,
            ),
            target=started.target,
            is_exact=started.exact,
            plain_reason=reasons[0] if reasons else "",
            model_hash=started.model_hash,
            numerics_class=started.numerics_class,
        )
