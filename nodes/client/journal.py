"""A client's record of its request, from which it can continue with another coordinator. Pure.

The text of a notice is a function of the committed tokens alone: the bytes of their pieces, without
those at the end that may begin a stop string. So a client that has all notices up to a token has
exactly the text that another target, given these tokens, considers as shown. Only the last notice
of a text contains bytes that were held back; it counts once the FinishedNotice has arrived.
"""

from collections import Counter
from dataclasses import dataclass, field, replace

from airdraft.nodes.messages import (
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
    """Something before this message is missing; the request has to be submitted again."""


class ForeignAnswerError(Exception):
    """The message does not continue this request; the text is one line."""


@dataclass(slots=True)
class _Choice:
    """One choice. token_ids, num_text_bytes: what is committed. position, text_offset: where the
    next notice must begin.

    last: the last notice of the text, until the FinishedNotice arrives. counts: counts from this
    coordinator; counts_before: from earlier ones.
    """

    token_ids: list[int] = field(default_factory=list)
    num_text_bytes: int = 0
    position: int = 0
    text_offset: int = 0
    last: TokensNotice | None = None
    is_over: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    counts_before: Counter[str] = field(default_factory=Counter)

    def begin(self, *, anew: bool) -> None:
        """Prepare for another coordinator, which continues at the end, or at the first token."""
        self.last = None
        self.position = 0 if anew else len(self.token_ids)
        self.text_offset = 0 if anew else self.num_text_bytes
        if anew:
            # The new coordinator counts all of it again.
            self.counts_before = Counter()
        else:
            self.counts_before += self.counts
        self.counts = Counter()

    def commit(self, notice: TokensNotice) -> None:
        self.token_ids += notice.token_ids
        self.num_text_bytes += len(notice.text)
        self.counts.update(
            num_rounds=notice.num_draft_tokens > 0,
            num_plain_steps=notice.num_draft_tokens == 0,
            num_draft_tokens=notice.num_draft_tokens,
            num_accepted_tokens=notice.num_accepted_tokens,
        )

    def total(self, figures: StreamFigures) -> StreamFigures:
        """The figures of the last coordinator and the counts of those before it."""
        return replace(
            figures, **{n: getattr(figures, n) + more for n, more in self.counts_before.items()}
        )


class Journal:
    """The record of one request across coordinators."""

    def __init__(self, submit: SubmitRequest) -> None:
        """submit: the original request. It must have a seed, so that its text can be repeated."""
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

    # -- submitting --------------------------------------------------------------------------------

    def request(self, request_id: int, deadline_s: float) -> SubmitRequest:
        """Returns the request to submit now: the original one, or what is left of it.

        Choices whose tokens no longer fit in the frame start again. Their text will be the same,
        and the part that is already known is dropped as it arrives.
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
            # Before any part of the answer has arrived, any class that the request accepts will do,
            # as after the loss of a target: the class that was reported may never come back.
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
        """Whether a part of the answer has arrived; the rest must have the same numerics class."""
        return self._num_scores > 0 or any(c.is_over or c.token_ids for c in self._choices)

    @property
    def _awaits_scores(self) -> bool:
        """Whether scores of the prompt are missing. A request for 0 tokens always needs them, as it
        would be empty otherwise."""
        started = self._started
        has_all_scores = started is not None and self._num_scores >= started.num_prompt_tokens - 1
        return not has_all_scores or self._submit.max_tokens == 0

    # -- receiving ---------------------------------------------------------------------------------

    def take(self, event: Event) -> tuple[Event, ...]:
        """Take an event and return what is new in it. Raises GapError or ForeignAnswerError."""
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
            raise GapError("the beginning is missing")
        if self._submit.scores_prompt and self._num_scores < self._started.num_prompt_tokens - 1:
            # All scores arrive before the first token and before the end.
            raise GapError("scores of the prompt are missing")
        if index >= len(self._choices):
            raise ForeignAnswerError(f"choice {index} was not requested")
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
                raise ForeignAnswerError(f"{what} has changed since the request began")
        if event.numerics_class == known.numerics_class:
            return ()
        # The lost target had sent no part of the answer, so one of another class starts again.
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
            # This coordinator has sent it before.
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
            raise ForeignAnswerError("the text is shorter than the part that had arrived")
        news: list[Event] = []
        if choice.last is not None and (choice.last.token_ids or choice.last.text):
            choice.commit(choice.last)
            news.append(choice.last)
        choice.is_over = True
        figures = choice.total(event.figures)
        # A finished choice is never submitted again, so its tokens are not needed.
        choice.token_ids, choice.last = [], None
        return (*news, replace(event, figures=figures))


def _cut(notice: TokensNotice, num_tokens: int, num_bytes: int) -> TokensNotice:
    """Remove the part of a notice that is already known."""
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
