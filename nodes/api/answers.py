"""Answers, and their assembly from the notices of a mesh. Pure."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from airdraft.nodes.messages import FinishedNotice, StartedNotice, StreamFigures, TokensNotice
from airdraft.nodes.messages.fingerprint import fingerprint


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of one choice. It never ends inside a character.

    text: The new text.
    token_ids: The tokens of the new text.
    choice: The number of the choice, from 0.
    finish_reason: `stop` or `length` in the choice's last piece, otherwise empty.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    choice: int = 0
    finish_reason: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the texts of an answer.

    text: The text.
    token_ids: Its tokens.
    finish_reason: `stop` at an end-of-text token or a stop text, `length` at `max_tokens`.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts and time of an answer, summed over its choices.

    num_prompt_tokens: The tokens of the prompt.
    num_cached_tokens: Those of them that were not computed anew.
    num_tokens: The tokens of the choices.
    num_draft_tokens: The guesses that were verified.
    num_accepted_tokens: The guesses that were accepted.
    num_rounds: The passes that took guesses.
    time_s: The time from the request to the end of the answer, in seconds.
    """

    num_prompt_tokens: int
    num_tokens: int
    num_draft_tokens: int
    num_accepted_tokens: int
    num_rounds: int
    time_s: float
    num_cached_tokens: int = 0

    @property
    def acceptance_rate(self) -> float | None:
        """The share of the guesses that were accepted; None if none were made."""
        return self.num_accepted_tokens / self.num_draft_tokens if self.num_draft_tokens else None

    @property
    def tokens_per_s(self) -> float:
        """The tokens per second, over the whole time."""
        return self.num_tokens / self.time_s if self.time_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer.

    choices: The texts.
    seed: The seed. The same request with it gives the same text if `fingerprint` is the same.
    usage: The counts and the time of the answer.
    target: The name of the target that served it.
    is_exact: Whether the text is the one that this model, class, request and seed always give.
    plain_reason: How many passes took no guesses, and why, of the first choice with such passes;
        empty if all took some.
    model_hash: The SHA-256 of the model file.
    numerics_class: The class of targets that compute the same bits.
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
        """The model and class that made the text, in the form of the option `fingerprint`."""
        return fingerprint(self.model_hash, self.numerics_class)

    @property
    def text(self) -> str:
        """The text of the first choice."""
        return self.choices[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The tokens of the first choice."""
        return self.choices[0].token_ids

    @property
    def finish_reason(self) -> str:
        """The finish reason of the first choice."""
        return self.choices[0].finish_reason


class _Part:
    """One choice while it arrives. Two messages may divide a character."""

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
    """Turns notices into pieces and, at the end, into the whole answer."""

    def __init__(self, num_choices: int) -> None:
        self._parts = [_Part() for _ in range(num_choices)]
        self.started: StartedNotice | None = None

    @property
    def seed(self) -> int | None:
        return None if self.started is None else self.started.seed

    @property
    def figures(self) -> list[StreamFigures]:
        """The figures of the choices that have finished."""
        return [part.figures for part in self._parts if part.figures is not None]

    def take(self, event: object) -> Piece | None:
        """Take an event and return the piece that it makes, or None."""
        match event:
            case StartedNotice():
                self.started = event
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
        return len(self.figures) == len(self._parts)

    def completion(self, time_s: float) -> Completion:
        """Returns the whole answer, once all choices have finished."""
        started, parts, figures = self.started, self._parts, self.figures
        assert started is not None
        assert self.is_complete
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
                # One choice reads the prompt, and the others copy it.
                num_cached_tokens=min(f.num_cached_tokens for f in figures),
            ),
            target=started.target,
            is_exact=started.exact,
            plain_reason=reasons[0] if reasons else "",
            model_hash=started.model_hash,
            numerics_class=started.numerics_class,
        )
