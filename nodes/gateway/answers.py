"""Assembles the mesh's events of a request into texts, scores and counts of its choices. Pure."""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from nodes.client.client import Event, RequestFailedError
from nodes.client.generation import Prompt
from nodes.engine.traits import SAMPLING_NAMES
from nodes.gateway.fields import Job
from nodes.messages import (
    FinishedNotice,
    PromptLogprobsNotice,
    Score,
    StartedNotice,
    TokenScores,
    TokensNotice,
)
from nodes.messages.fingerprint import fingerprint

# With the handler "replace" it turns an incomplete character into one U+FFFD.
_utf8_decoder: Final = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token of a text. is_first: it is the first token of a prompt and so has no probability.

    kind: its origin: an `accepted` guess; the target, after a wrong guess (`corrected`) or after
    only right ones (`bonus`); a `plain` step; or the `prompt`.
    """

    scores: TokenScores
    is_first: bool = False
    kind: str = "plain"


@dataclass(frozen=True, slots=True)
class Delta:
    """What one event adds to one choice. begins: it is the first part of the choice.

    told_tokens: in a resumed stream, tokens before `tokens` that the reader already has.
    """

    index: int
    text: str
    tokens: tuple[ScoredToken, ...]
    begins: bool
    finish_reason: str | None = None
    told_tokens: tuple[ScoredToken, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether it contains nothing to send."""
        return not (self.begins or self.text or self.tokens or self.finish_reason)


def joined(deltas: Sequence[Delta]) -> Delta:
    """All deltas of one choice as one."""
    text = "".join(delta.text for delta in deltas)
    tokens = tuple(token for delta in deltas for token in delta.tokens)
    return replace(deltas[0], text=text, tokens=tokens, finish_reason=deltas[-1].finish_reason)


@dataclass(slots=True)
class _Choice:
    decoder: codecs.IncrementalDecoder = field(default_factory=lambda: _utf8_decoder("replace"))
    has_begun: bool = False
    has_ended: bool = False


class Answers:
    """All choices of one job. Choice c of prompt p has index p * n + c.

    object_id, created_unix: the id of the answer, and when it was begun, in seconds.
    """

    def __init__(self, job: Job, object_id: str, created_unix: int) -> None:
        self.job = job
        self.object_id = object_id
        self.created_unix = created_unix
        self._num_choices = job.options.num_choices
        self._choices = [_Choice() for _ in range(len(job.prompts) * self._num_choices)]
        self._prompt_scores: list[list[TokenScores]] = [[] for _ in job.prompts]
        # Index of a prompt -> the notice of the target that answers it.
        self._started: dict[int, StartedNotice] = {}
        self.num_tokens = 0
        self._num_draft_tokens = 0
        self._num_accepted_tokens = 0
        # The name of the model, and the fingerprint of it and its class; "" while they are unknown.
        self.model = ""
        self.fingerprint = ""

    @property
    def num_prompt_tokens(self) -> int:
        return sum(started.num_prompt_tokens for started in self._started.values())

    def usage(self) -> dict[str, Any]:
        """The counts of all prompts and choices as JSON, once all have begun."""
        started, options = list(self._started.values()), self.job.options
        num_prompt_tokens = self.num_prompt_tokens
        return {
            "prompt_tokens": num_prompt_tokens,
            "completion_tokens": self.num_tokens,
            "total_tokens": num_prompt_tokens + self.num_tokens,
            "completion_tokens_details": {
                "accepted_prediction_tokens": self._num_accepted_tokens,
                "rejected_prediction_tokens": self._num_draft_tokens - self._num_accepted_tokens,
            },
            "airdraft": {
                "drafted": self._num_draft_tokens,
                "accepted": self._num_accepted_tokens,
                "exact": all(each.exact for each in started),
                "seed": options.seed,
                "sampling": {name: getattr(options, name) for name in SAMPLING_NAMES},
                "emulated": any(each.emulated for each in started),
                "model_hash": started[0].model_hash,
                "numerics_class": started[0].numerics_class,
            },
        }

    @property
    def is_whole(self) -> bool:
        """Whether all choices have ended."""
        return all(choice.has_ended for choice in self._choices)

    def on_event(self, prompt_index: int, event: Event) -> Delta | None:
        """Take an event and return what it adds for the client, or None.

        The client's journal has seen to it that nothing is missing and nothing arrives twice.
        Raises RequestFailedError if prompts of one body are answered by different classes, or by a
        model that was not there when the request was read.
        """
        match event:
            case TokensNotice():
                return self._on_tokens(prompt_index, event)
            case FinishedNotice():
                return self._on_finished(prompt_index, event)
            case PromptLogprobsNotice():
                self._prompt_scores[prompt_index] += event.scores
            case StartedNotice():
                self._on_started(prompt_index, event)
        return None

    def _on_started(self, prompt_index: int, event: StartedNotice) -> None:
        """Note which target answers. The event comes again if that one is lost before a token."""
        known = self.job.model_hashes
        if known is not None and event.model_hash not in known:
            # Its own defaults of sampling, of thinking and of calls would give another text.
            reason = "the model that answers came after the request was read: send it again"
            raise RequestFailedError("unavailable", reason)
        self._started[prompt_index] = event
        started = self._started.values()
        if len({(each.model_hash, each.numerics_class) for each in started}) > 1:
            reason = (
                "the numerics class that answers other prompts of this body has left: try again"
            )
            raise RequestFailedError("unavailable", reason)
        self.model = event.target
        self.fingerprint = fingerprint(event.model_hash, event.numerics_class)

    def _on_tokens(self, prompt_index: int, event: TokensNotice) -> Delta | None:
        index = prompt_index * self._num_choices + event.choice
        self.num_tokens += len(event.token_ids)
        text = self._choices[index].decoder.decode(event.text)
        if not text and not event.scores:
            return None
        kinds = kinds_of(len(event.scores), event.num_draft_tokens, event.num_accepted_tokens)
        tokens = tuple(
            ScoredToken(scores, kind=kind) for scores, kind in zip(event.scores, kinds, strict=True)
        )
        return self._delta(index, prompt_index, text, tokens)

    def _on_finished(self, prompt_index: int, event: FinishedNotice) -> Delta:
        index = prompt_index * self._num_choices + event.choice
        choice = self._choices[index]
        choice.has_ended = True
        self._num_draft_tokens += event.figures.num_draft_tokens
        self._num_accepted_tokens += event.figures.num_accepted_tokens
        text = choice.decoder.decode(b"", final=True)
        return self._delta(index, prompt_index, text, (), event.finish_reason)

    def _delta(
        self,
        index: int,
        prompt_index: int,
        text: str,
        tokens: tuple[ScoredToken, ...],
        finish_reason: str | None = None,
    ) -> Delta:
        choice = self._choices[index]
        begins, choice.has_begun = not choice.has_begun, True
        if begins and self.job.echo:
            prompt = self.job.prompts[prompt_index]
            echoed: tuple[ScoredToken, ...] = ()
            if self.job.options.scores_prompt:
                echoed = tuple(_echoed(prompt, self._prompt_scores[prompt_index]))
            text = _text_of(prompt, echoed) + text
            tokens = echoed + tokens
        return Delta(index, text, tokens, begins, finish_reason)


def kinds_of(num_tokens: int, num_draft_tokens: int, num_accepted_tokens: int) -> list[str]:
    """The kind of each token of a notice: first the accepted guesses, then the target's own."""
    own = "plain"
    if num_draft_tokens:
        own = "bonus" if num_accepted_tokens == num_draft_tokens else "corrected"
    num_accepted = min(num_accepted_tokens, num_tokens)
    return ["accepted"] * num_accepted + [own] * (num_tokens - num_accepted)


def _echoed(prompt: Prompt, scores: list[TokenScores]) -> Iterator[ScoredToken]:
    """Yield the tokens of a prompt. The first has no score, because nothing precedes it."""
    rest = b"".join(entry.chosen.piece for entry in scores)
    piece, token_id = b"", 0
    if isinstance(prompt, str):
        # The piece is empty if a template or the tokenizer added tokens before the text.
        whole = prompt.encode()
        piece = whole[: len(whole) - len(rest)] if whole.endswith(rest) else b""
    elif isinstance(prompt[0], int):
        token_id = prompt[0]
    yield ScoredToken(TokenScores(Score(token_id, 0.0, piece), ()), is_first=True, kind="prompt")
    for entry in scores:
        yield ScoredToken(entry, kind="prompt")


def _text_of(prompt: Prompt, echoed: tuple[ScoredToken, ...]) -> str:
    if isinstance(prompt, str):
        return prompt
    return b"".join(entry.scores.chosen.piece for entry in echoed).decode("utf-8", "replace")
