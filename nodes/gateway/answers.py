"""Assembles the mesh's events of a request into texts, scores and counts of its choices. Pure."""

import codecs
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from airdraft.nodes.client.client import Event, RequestFailedError
from airdraft.nodes.client.generation import Prompt
from airdraft.nodes.engine.traits import SAMPLING_NAMES
from airdraft.nodes.gateway.fields import Job
from airdraft.nodes.gateway.scored import ScoredToken, ScoredTokens
from airdraft.nodes.messages import (
    FinishedNotice,
    PromptLogprobsNotice,
    Score,
    StartedNotice,
    TokenScores,
    TokensNotice,
)
from airdraft.nodes.messages.fingerprint import fingerprint

# With the handler "replace" it turns an incomplete character into one U+FFFD.
_utf8_decoder: Final = codecs.getincrementaldecoder("utf-8")

# Writing a score takes some 1 us (2 cores of an x86, 2026-12-01).
_MOST_SCORES_OF_PART: Final = 4096


@dataclass(frozen=True, slots=True)
class Delta:
    """What one event adds to one choice. begins: it is the first part of the choice."""

    index: int
    text: str
    tokens: Sequence[ScoredToken]
    begins: bool
    finish_reason: str | None = None


class Joined:
    """All deltas of one choice as one. It takes less memory than they do."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._text = io.StringIO()
        self._tokens = ScoredTokens()
        self._finish_reason: str | None = None

    def add(self, delta: Delta) -> None:
        self._text.write(delta.text)
        self._tokens.extend(delta.tokens)
        self._finish_reason = delta.finish_reason

    def delta(self) -> Delta:
        return Delta(self._index, self._text.getvalue(), self._tokens, True, self._finish_reason)


def split(delta: Delta) -> Iterator[Delta]:
    """Parts of a delta that are written in some milliseconds each: an echo may be long."""
    width = 1 + max((len(token.scores.top) for token in delta.tokens[-1:]), default=0)
    at_a_time = max(_MOST_SCORES_OF_PART // width, 1)
    starts = range(0, max(len(delta.tokens), 1), at_a_time)
    for start in starts:
        part = replace(delta, tokens=delta.tokens[start : start + at_a_time])
        if start > 0:
            part = replace(part, text="", begins=False)
        if start < starts[-1]:
            part = replace(part, finish_reason=None)
        yield part


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
        self._echoes = [_Echo(prompt) for prompt in job.prompts]
        # Index of a prompt -> the notice of the target that answers it.
        self._started: dict[int, StartedNotice] = {}
        self.num_tokens = 0
        self._num_draft_tokens = 0
        self._num_accepted_tokens = 0
        # Of each prompt; the other choices copy what one reads.
        self._num_cached_tokens: dict[int, int] = {}
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
            "prompt_tokens_details": {"cached_tokens": sum(self._num_cached_tokens.values())},
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
                self._echoes[prompt_index].add(event.scores)
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
        num_cached, known = event.figures.num_cached_tokens, self._num_cached_tokens
        known[prompt_index] = min(num_cached, known.get(prompt_index, num_cached))
        text = choice.decoder.decode(b"", final=True)
        return self._delta(index, prompt_index, text, (), event.finish_reason)

    def _delta(
        self,
        index: int,
        prompt_index: int,
        text: str,
        tokens: Sequence[ScoredToken],
        finish_reason: str | None = None,
    ) -> Delta:
        choice = self._choices[index]
        begins, choice.has_begun = not choice.has_begun, True
        if begins and self.job.echo:
            echo = self._echoes[prompt_index]
            text = echo.text() + text
            if self.job.options.scores_prompt:
                echoed = echo.tokens()
                echoed.extend(tokens)
                tokens = echoed
            first = prompt_index * self._num_choices
            if all(choice.has_begun for choice in self._choices[first : first + self._num_choices]):
                echo.clear()
        return Delta(index, text, tokens, begins, finish_reason)


def kinds_of(num_tokens: int, num_draft_tokens: int, num_accepted_tokens: int) -> list[str]:
    """The kind of each token of a notice: first the accepted guesses, then the target's own."""
    own = "plain"
    if num_draft_tokens:
        own = "bonus" if num_accepted_tokens == num_draft_tokens else "corrected"
    num_accepted = min(num_accepted_tokens, num_tokens)
    return ["accepted"] * num_accepted + [own] * (num_tokens - num_accepted)


class _Echo:
    """A prompt, with its scores if they were asked for, until all of its choices have begun."""

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self._later = ScoredTokens()
        # The bytes of all tokens but the first.
        self._rest = bytearray()

    def add(self, scores: Sequence[TokenScores]) -> None:
        """Scores of the next tokens. The first has none, because nothing precedes it."""
        self._later.extend(ScoredToken(entry, kind="prompt") for entry in scores)
        self._rest += b"".join(entry.chosen.piece for entry in scores)

    def text(self) -> str:
        if isinstance(self._prompt, str):
            return self._prompt
        return self._rest.decode("utf-8", "replace")

    def tokens(self) -> ScoredTokens:
        piece, token_id, prompt = b"", 0, self._prompt
        if isinstance(prompt, str):
            # The piece is empty if a template or the tokenizer added tokens before the text.
            whole = prompt.encode()
            is_end = whole.endswith(self._rest)
            piece = whole[: len(whole) - len(self._rest)] if is_end else b""
        elif isinstance(prompt[0], int):
            token_id = prompt[0]
        first = TokenScores(Score(token_id, 0.0, piece), ())
        found = ScoredTokens([ScoredToken(first, is_first=True, kind="prompt")])
        found.extend(self._later)
        return found

    def clear(self) -> None:
        self._later = ScoredTokens()
        self._rest.clear()
