"""What a client saw is what it would have seen undisturbed, wherever its coordinators were lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.client.journal import Event, ForeignAnswerError, GapError, Journal
from nodes.engine.toy import TOY_EOG, ToyTokenizer
from nodes.messages import (
    FinishedNotice,
    PromptLogprobsNotice,
    Score,
    StartedNotice,
    StreamFigures,
    SubmitRequest,
    TokenScores,
    TokensNotice,
)
from nodes.target.stream import TargetStream
from nodes.worker.stream import StopMatcher
from tests.nodes.builders import PROMPT, make_spec, make_submit

STARTED = StartedNotice(1, 7, 3, True, "big", "small", False, "class", "hash", "prompt", 60.0)
FIGURES = StreamFigures(1, 2, 3, 2, 50, 60, "slow")
# Characters of one to four bytes, and what may begin a stop string.
ALPHABET = "abé€😀"


def tokens(position: int, text: bytes, *ids: int, choice: int = 0, **changes: Any) -> TokensNotice:
    return TokensNotice(1, choice, position, text, ids, **changes)


def finished(num_tokens: int, choice: int = 0, reason: str = "stop") -> FinishedNotice:
    return FinishedNotice(1, choice, num_tokens, reason, FIGURES)


def started(**changes: Any) -> Journal:
    """Of a request that was submitted and has begun."""
    journal = Journal(make_submit(**changes))
    journal.request(1, 0.0)
    assert journal.take(STARTED) == (STARTED,)
    return journal


# -- what is asked for -----------------------------------------------------------------------------


def test_the_first_request_is_the_one_that_was_made_and_the_second_is_not_new() -> None:
    submit = make_submit(num_choices=2)
    journal = Journal(submit)
    assert journal.request(4, 9.0) == replace(submit, request_id=4, deadline_s=9.0)
    assert not journal.is_resubmitted
    again = journal.request(2, 8.0)
    assert again == make_submit(2, num_choices=2, resume_from=(0, 0), deadline_s=8.0)
    assert journal.is_resubmitted


def test_what_was_asked_for_stays_asked_for() -> None:
    journal = Journal(make_submit(model_hash="short", numerics_class="pinned"))
    asked = [journal.request(number, 0.0) for number in (1, 2)]
    assert {(submit.model_hash, submit.numerics_class) for submit in asked} == {("short", "pinned")}
    journal.take(STARTED)
    submit = journal.request(3, 0.0)
    assert (submit.model_hash, submit.numerics_class) == ("hash", "pinned")
    journal.take(tokens(0, b"a", 8))
    submit = journal.request(4, 5.0)
    assert (submit.model_hash, submit.numerics_class) == ("hash", "class")
    assert (submit.prompt_hash, submit.is_exact) == ("prompt", True)
    assert (submit.deadline_s, submit.seed) == (5.0, 7)

    # A text stays one, and its tokens follow nothing.
    journal = started(prompt="hi", prompt_token_ids=())
    journal.take(tokens(0, b"a", 8))
    submit = journal.request(2, 0.0)
    assert (submit.prompt, submit.prompt_token_ids, submit.resume_from) == ("hi", (8,), (1,))


# -- what comes ------------------------------------------------------------------------------------


def test_what_comes_twice_is_dropped_and_what_is_missing_noticed() -> None:
    journal = started()
    first, second = tokens(0, b"a", 8), tokens(1, b"b", 9)
    assert journal.take(first) == (first,)
    assert journal.take(first) == ()
    assert journal.take(second) == (second,)
    assert journal.take(first) == ()
    with pytest.raises(GapError):
        journal.take(tokens(3, b"d", 7))
    with pytest.raises(GapError):
        journal.take(finished(3))
    assert journal.take(STARTED) == ()
    (end,) = journal.take(finished(2))
    assert journal.is_over
    assert (journal.take(finished(2)), journal.take(second)) == ((), ())
    assert isinstance(end, FinishedNotice)
    # Nothing comes before the beginning.
    journal = Journal(make_submit())
    journal.request(1, 0.0)
    with pytest.raises(GapError):
        journal.take(tokens(0, b"a", 8))


def test_what_a_choice_did_with_all_its_coordinators_is_added_up() -> None:
    journal = started()
    journal.take(tokens(0, b"a", 8, 9, num_draft_tokens=4, num_accepted_tokens=1))
    journal.take(tokens(2, b"a", 8))
    journal.request(2, 0.0)
    journal.take(STARTED)
    journal.take(tokens(3, b"a", 8))
    (end,) = journal.take(finished(4))
    assert isinstance(end, FinishedNotice)
    assert end.figures == StreamFigures(2, 3, 7, 3, 50, 60, "slow")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seed": 8}, "the seed"),
        ({"num_prompt_tokens": 4}, "the prompt"),
        ({"prompt_hash": "other"}, "the prompt"),
        ({"model_hash": "other"}, "the model"),
        ({"numerics_class": "other"}, "the numerics class"),
        ({"exact": False}, "exactness"),
    ],
)
def test_a_coordinator_that_goes_on_with_something_else_is_found_out(
    changes: dict[str, Any], what: str
) -> None:
    journal = started()
    journal.take(tokens(0, b"ab", 8, 9))
    journal.request(2, 0.0)
    with pytest.raises(ForeignAnswerError, match=f"{what} has changed since"):
        journal.take(replace(STARTED, **changes))


@pytest.mark.parametrize("event", [finished(1), tokens(0, b"a", 8, choice=1)])
def test_a_text_that_ends_too_early_or_was_not_asked_for_is_found_out(event: Event) -> None:
    journal = started()
    journal.take(tokens(0, b"ab", 8, 9))
    with pytest.raises(ForeignAnswerError):
        journal.take(event)


def test_what_has_told_nothing_may_begin_anew_with_another_class() -> None:
    journal = started()
    other = replace(STARTED, numerics_class="other")
    # Who is told which class answers hears of it, once.
    assert journal.take(other) == (other,)
    assert journal.take(other) == ()
    assert journal.request(2, 0.0).numerics_class == ""
    journal.take(tokens(0, b"ab", 8, 9))
    assert journal.request(3, 0.0).numerics_class == "other"
    scored = started(scores_prompt=True)
    scored.take(scores(1, 2))
    with pytest.raises(ForeignAnswerError):
        scored.take(replace(STARTED, numerics_class="other"))


def scores(position: int, end: int) -> PromptLogprobsNotice:
    each = tuple(TokenScores(Score(i, -1.0, b""), ()) for i in range(position, end))
    return PromptLogprobsNotice(1, position, each)


def test_scores_of_the_prompt_are_told_once_and_asked_for_until_all_are_there() -> None:
    journal = started(scores_prompt=True)
    assert journal.take(scores(1, 2)) == (scores(1, 2),)
    assert journal.request(2, 0.0).scores_prompt
    journal.take(STARTED)
    assert journal.take(scores(1, 2)) == ()
    with pytest.raises(GapError):
        journal.take(scores(3, 4))
    assert journal.take(scores(1, 3)) == (scores(2, 3),)
    assert not journal.request(3, 0.0).scores_prompt
    # Where only the prompt is scored the request stays one.
    journal = started(scores_prompt=True, max_tokens=0)
    journal.take(scores(1, 3))
    assert journal.request(2, 0.0).scores_prompt


@pytest.mark.parametrize("event", [tokens(0, b"ab", 8, 9), finished(0)])
def test_scores_that_are_missing_before_a_token_or_the_end_are_noticed(event: Event) -> None:
    journal = started(scores_prompt=True)
    journal.take(scores(1, 2))
    with pytest.raises(GapError):
        journal.take(event)
    journal.take(scores(2, 3))
    assert journal.take(event) == (event,)


# -- any text, cut and lost anywhere ---------------------------------------------------------------


@dataclass(frozen=True)
class Pieces:
    """A tokenizer of which only the pieces matter."""

    pieces: tuple[bytes, ...]

    def piece(self, token_id: int) -> bytes:
        return b"" if token_id == TOY_EOG else self.pieces[token_id - 1]


@dataclass(frozen=True)
class Texts:
    """What each choice becomes, an end token or max_tokens behind it."""

    tokenizer: Pieces
    token_ids: tuple[tuple[int, ...], ...]
    max_tokens: int
    stops: tuple[str, ...]

    def submit(self) -> SubmitRequest:
        return make_submit(
            num_choices=len(self.token_ids), max_tokens=self.max_tokens, stops=self.stops
        )

    def served(self, submit: SubmitRequest, sizes: Iterator[int]) -> Iterator[Event]:
        """What a coordinator sends for a request whose passes commit so many tokens each."""
        yield STARTED
        counts = submit.resume_from or (0,) * submit.num_choices
        committed = list(submit.prompt_token_ids[len(PROMPT) :])
        streams: dict[int, TargetStream] = {}
        for choice, count in enumerate(counts):
            if count < 0:
                continue
            assert tuple(committed[:count]) == self.token_ids[choice][:count]
            streams[choice] = self._stream(committed[:count])
            del committed[:count]
        assert not committed
        while streams:
            choice = next(sizes) % submit.num_choices
            if choice in streams:
                yield from self._pass(choice, streams, next(sizes))

    def _stream(self, committed: Sequence[int]) -> TargetStream:
        """As TargetState opens one."""
        token_ids = (*PROMPT, *committed)
        spec = make_spec(max_tokens=self.max_tokens, stops=self.stops, token_ids=token_ids)
        stops = StopMatcher(self.stops)
        for token_id in committed:
            stops.push(self.tokenizer.piece(token_id))
        return TargetStream(spec, 1, 1, list(token_ids), stops, cast(Any, None))

    def _pass(
        self, choice: int, streams: dict[int, TargetStream], size: int
    ) -> Iterator[TokensNotice | FinishedNotice]:
        stream = streams[choice]
        position = stream.num_output
        ahead = [*self.token_ids[choice][position : position + size], TOY_EOG][:size]
        tokenizer = cast(ToyTokenizer, self.tokenizer)
        kept, text, reason = stream.until_end(ahead, frozenset({TOY_EOG}), tokenizer)
        stream.token_ids += kept
        if kept or text:
            yield tokens(position, text, *kept, choice=choice, is_last=bool(reason))
        if reason:
            del streams[choice]
            yield finished(stream.num_output, choice, reason)


@st.composite
def texts(draw: st.DrawFn) -> Texts:
    whole = draw(st.text(ALPHABET, min_size=4, max_size=12)).encode()
    cuts = sorted(draw(st.sets(st.integers(1, len(whole) - 1), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    ids = st.integers(1, len(pieces))
    max_tokens = draw(st.integers(1, 20))
    choices = st.lists(ids, max_size=max_tokens).map(tuple)
    return Texts(
        Pieces(tuple(pieces)),
        tuple(draw(st.lists(choices, min_size=1, max_size=3))),
        max_tokens,
        tuple(draw(st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=3))),
    )


def endless(sizes: Sequence[int]) -> Iterator[int]:
    while True:
        yield from sizes
        yield from range(1, 5)


@dataclass
class Seen:
    token_ids: tuple[int, ...] = ()
    text: bytes = b""
    reason: str = ""

    def add(self, event: Event) -> None:
        assert not self.reason, "something after the end"
        if isinstance(event, TokensNotice):
            assert event.position == len(self.token_ids)
            self.token_ids += event.token_ids
            self.text += event.text
        elif isinstance(event, FinishedNotice):
            assert event.num_tokens == len(self.token_ids)
            self.reason = event.finish_reason


@given(
    case=texts(),
    sizes=st.lists(st.integers(1, 6), max_size=20),
    losses=st.lists(st.integers(0, 12), max_size=6),
    repeats=st.lists(st.booleans(), max_size=20),
    room=st.sampled_from([10_000, 10_000, 5, 12]),
)
def test_a_client_sees_what_it_would_have_seen_undisturbed(
    case: Texts, sizes: list[int], losses: list[int], repeats: list[bool], room: int
) -> None:
    """losses: after how many messages each coordinator is lost; the last one stays."""
    alone = [Seen() for _ in case.token_ids]
    for event in case.served(case.submit(), endless([1])):
        if isinstance(event, TokensNotice | FinishedNotice):
            alone[event.choice].add(event)
    journal, seen = Journal(case.submit()), [Seen() for _ in case.token_ids]
    num_started = 0
    passes, again = endless(sizes), iter(repeats)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nodes.client.journal.MAX_PROMPT_TOKENS", room)
        for number, loss in enumerate([*losses, 10_000]):
            if journal.is_over:
                break
            served = case.served(journal.request(number, 0.0), passes)
            for event, _ in zip(served, range(loss), strict=False):
                for _ in range(1 + next(again, False)):
                    for fresh in journal.take(event):
                        if isinstance(fresh, TokensNotice | FinishedNotice):
                            seen[fresh.choice].add(fresh)
                        else:
                            num_started += 1
    assert journal.is_over
    assert seen == alone
    assert num_started == 1
