"""What a client knows of its request: enough to go on with another coordinator. Pure.

What a notice brings of text is a function of the committed tokens alone: the bytes of their pieces,
but for those at the end that may begin a stop string. So whoever has all notices up to some token
has exactly the text that another target holds for shown when it is told these tokens. Only a text's
last notice shows what was held back; it counts when the FinishedNotice is there, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from nodes.messages import (
    MAX_PROMPT_TOKENS,
    FinishedNotice,
    PromptLogprobsNotice,
    StartedNotice,
    StreamFigures,
    SubmitRequest,
    TokensNotice,
)

Event = StartedNotice | PromptLogprobsNotice | TokensNotice | FinishedNotice


class GapError(Exception):
    """Something is missing before what came: it can only be asked for anew."""


class ForeignAnswerError(Exception):
    """What came does not go on where the request was; the text is one line."""


@dataclass(slots=True)
class _Counts:
    """Of a choice, as its notices tell."""

    num_rounds: int = 0
    num_plain_steps: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0

    def add(self, other: _Counts) -> None:
        self.num_rounds += other.num_rounds
        self.num_plain_steps += other.num_plain_steps
        self.num_draft_tokens += other.num_draft_tokens
        self.num_accepted_tokens += other.num_accepted_tokens

    def add_to(self, figures: StreamFigures) -> StreamFigures:
        return replace(
            figures,
            num_rounds=figures.num_rounds + self.num_rounds,
            num_plain_steps=figures.num_plain_steps + self.num_plain_steps,
            num_draft_tokens=figures.num_draft_tokens + self.num_draft_tokens,
            num_accepted_tokens=figures.num_accepted_tokens + self.num_accepted_tokens,
        )


@dataclass(slots=True)
class _Choice:
    """token_ids, num_text_bytes: committed. position, text_offset: of what comes next.

    last: a text's last notice, until the FinishedNotice is there. counts: of what this coordinator
    sent; counts_before: of those before it.
    """

    token_ids: list[int] = field(default_factory=list)
    num_text_bytes: int = 0
    position: int = 0
    text_offset: int = 0
    last: TokensNotice | None = None
    is_over: bool = False
    counts: _Counts = field(default_factory=_Counts)
    counts_before: _Counts = field(default_factory=_Counts)

    def begin(self, *, anew: bool) -> None:
        """Another coordinator takes it up: from its end, or anew from its first token."""
        self.last = None
        self.position = 0 if anew else len(self.token_ids)
        self.text_offset = 0 if anew else self.num_text_bytes
        if anew:
            # It is all counted there once more.
            self.counts_before = _Counts()
        else:
            self.counts_before.add(self.counts)
        self.counts = _Counts()

    def commit(self, notice: TokensNotice) -> None:
        self.token_ids += notice.token_ids
        self.num_text_bytes += len(notice.text)
        counts = self.counts
        counts.num_rounds += notice.num_draft_tokens > 0
        counts.num_plain_steps += notice.num_draft_tokens == 0
        counts.num_draft_tokens += notice.num_draft_tokens
        counts.num_accepted_tokens += notice.num_accepted_tokens


class Journal:
    """One request, whatever becomes of its coordinators."""

    def __init__(self, submit: SubmitRequest) -> None:
        """submit: the request as it began, with a seed: only so the same text comes again."""
        assert submit.seed >= 0
        self._submit = submit
        self._choices = [_Choice() for _ in range(submit.num_choices)]
        self._started: StartedNotice | None = None
        self._num_scores = 0
        self._num_submissions = 0

    @property
    def is_over(self) -> bool:
        """Whether all choices have finished."""
        return all(choice.is_over for choice in self._choices)

    @property
    def is_resubmitted(self) -> bool:
        return self._num_submissions > 1

    # -- asking ------------------------------------------------------------------------------------

    def request(self, request_id: int, deadline_s: float) -> SubmitRequest:
        """What to submit now: the request as it began, or what is left of it.

        Choices whose tokens do not fit in the frame any more begin anew: they become the same, and
        what is known of them is dropped as it comes.
        """
        self._num_submissions += 1
        submit = replace(self._submit, request_id=request_id, deadline_s=deadline_s)
        if not self.is_resubmitted:
            return submit
        room = MAX_PROMPT_TOKENS - len(submit.prompt_token_ids)
        resume_from: list[int] = []
        committed: list[int] = []
        for choice in self._choices:
            if choice.is_over:
                resume_from.append(-1)
                continue
            fits = len(committed) + len(choice.token_ids) <= room
            choice.begin(anew=not fits)
            resume_from.append(choice.position)
            committed += choice.token_ids[: choice.position]
        started = self._started
        return replace(
            submit,
            prompt_token_ids=(*submit.prompt_token_ids, *committed),
            scores_prompt=submit.scores_prompt and self._awaits_scores,
            resume_from=tuple(resume_from),
            # Until something has come of it any class that was asked for will do, as it would have
            # for who lost a target: the one that was told of may never come back.
            numerics_class=(
                submit.numerics_class
                if started is None or not self._has_begun
                else started.numerics_class
            ),
            model_hash=submit.model_hash if started is None else started.model_hash,
            is_exact=started is not None and started.exact,
            prompt_hash="" if started is None else started.prompt_hash,
        )

    @property
    def _has_begun(self) -> bool:
        """Whether anything of the answer came: what follows must be of the same numerics class."""
        return self._num_scores > 0 or any(c.is_over or c.token_ids for c in self._choices)

    @property
    def _awaits_scores(self) -> bool:
        """Whether the prompt is to be scored: only so a request without tokens is one at all."""
        started = self._started
        is_told = started is not None and self._num_scores >= started.num_prompt_tokens - 1
        return not is_told or self._submit.max_tokens == 0

    # -- what comes --------------------------------------------------------------------------------

    def take(self, event: Event) -> tuple[Event, ...]:
        """What is news in an event. Raises GapError or ForeignAnswerError."""
        match event:
            case StartedNotice():
                return self._on_started(event)
            case PromptLogprobsNotice():
                return self._on_scores(event)
            case TokensNotice():
                return self._on_tokens(self._choice(event.choice), event)
            case FinishedNotice():
                return self._on_finished(self._choice(event.choice), event)

    def _choice(self, index: int) -> _Choice:
        if self._started is None:
            raise GapError("an answer without its beginning")
        if self._submit.scores_prompt and self._num_scores < self._started.num_prompt_tokens - 1:
            # All of them go before the first token, and before the end.
            raise GapError("scores of the prompt are missing")
        if index >= len(self._choices):
            raise ForeignAnswerError(f"choice {index} was not asked for")
        return self._choices[index]

    def _on_started(self, event: StartedNotice) -> tuple[Event, ...]:
        known = self._started
        if known is None:
            self._started = event
            return (event,)
        for what, same in (
            ("the seed", event.seed == known.seed),
            ("the prompt", event.num_prompt_tokens == known.num_prompt_tokens),
            ("the prompt", event.prompt_hash == known.prompt_hash),
            ("the model", event.model_hash == known.model_hash),
            (
                "the numerics class",
                not self._has_begun or event.numerics_class == known.numerics_class,
            ),
            ("exactness", event.exact or not known.exact),
        ):
            if not same:
                raise ForeignAnswerError(f"{what} is another than when the request began")
        if event.numerics_class == known.numerics_class:
            return ()
        # A target was lost that had told nothing: one of another class begins anew.
        self._started = event
        return (event,)

    def _on_scores(self, event: PromptLogprobsNotice) -> tuple[Event, ...]:
        # The first token of a prompt has no score.
        num_known = 1 + self._num_scores - event.position
        if num_known < 0:
            raise GapError("scores of the prompt are missing")
        scores = event.scores[num_known:]
        if not scores:
            return ()
        self._num_scores += len(scores)
        return (replace(event, position=event.position + num_known, scores=scores),)

    def _on_tokens(self, choice: _Choice, event: TokensNotice) -> tuple[Event, ...]:
        if choice.is_over or choice.last is not None or event.position < choice.position:
            # It has come before, from this coordinator.
            return ()
        if event.position > choice.position:
            raise GapError("tokens are missing")
        fresh = _cut(
            event,
            num_tokens=len(choice.token_ids) - event.position,
            num_bytes=choice.num_text_bytes - choice.text_offset,
        )
        choice.position += len(event.token_ids)
        choice.text_offset += len(event.text)
        if event.is_last:
            choice.last = fresh
            return ()
        if not (fresh.token_ids or fresh.text):
            return ()
        choice.commit(fresh)
        return (fresh,)

    def _on_finished(self, choice: _Choice, event: FinishedNotice) -> tuple[Event, ...]:
        if choice.is_over:
            return ()
        if event.num_tokens > choice.position:
            raise GapError("the last tokens are missing")
        if event.num_tokens < max(choice.position, len(choice.token_ids)):
            raise ForeignAnswerError("the text ended before what is known of it")
        news: list[Event] = []
        if choice.last is not None and (choice.last.token_ids or choice.last.text):
            choice.commit(choice.last)
            news.append(choice.last)
        choice.is_over = True
        figures = choice.counts_before.add_to(event.figures)
        # What is over is not asked for again.
        choice.token_ids, choice.last = [], None
        return (*news, replace(event, figures=figures))


def _cut(notice: TokensNotice, num_tokens: int, num_bytes: int) -> TokensNotice:
    """A notice without what is known of it already."""
    if num_tokens == 0 and num_bytes == 0:
        return notice
    return replace(
        notice,
        position=notice.position + min(num_tokens, len(notice.token_ids)),
        text=notice.text[num_bytes:],
        token_ids=notice.token_ids[num_tokens:],
        num_draft_tokens=max(0, notice.num_draft_tokens - num_tokens),
        num_accepted_tokens=max(0, notice.num_accepted_tokens - num_tokens),
        scores=notice.scores[num_tokens:],
    )
