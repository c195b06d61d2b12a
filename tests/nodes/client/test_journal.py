"""What a client saw is what it would have seen undisturbed, wherever its coordinators were lost."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, cycle, islice, zip_longest
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.client.journal import Event, ForeignAnswerError, GapError, Journal
from airdraft.nodes.messages import (
    FinishedNotice,
    PromptLogprobsNotice,
    Score,
    StartedNotice,
    StreamFigures,
    SubmitRequest,
    TokenScores,
    TokensNotice,
)
from tests.nodes.builders import PROMPT, make_submit

STARTED = StartedNotice(1, 7, 3, True, "big", "small", False, "class", "hash", "prompt", 60.0)
FIGURES = StreamFigures(1, 2, 3, 2, 50, 60, "slow")


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

WHOLE = bytes(range(256))


@dataclass(frozen=True)
class Choice:
    """What a choice becomes, and how much of its text is shown with its first 0, 1, ... tokens and
    at its end: what may begin a stop string is held back."""

    token_ids: tuple[int, ...]
    num_shown: tuple[int, ...]

    def passes(self, choice: int, start: int, sizes: Iterator[int]) -> Iterator[Event]:
        """What a coordinator sends from a token on, as passes commit so many tokens each."""
        end, last = start, len(self.num_shown) - 1
        while end < last:
            start, end = end, min(end + next(sizes), last)
            ids = self.token_ids[start:end]
            text = WHOLE[self.num_shown[start] : self.num_shown[end]]
            if ids or text:
                yield tokens(start, text, *ids, choice=choice, is_last=end == last)
        yield finished(len(self.token_ids), choice)


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    token_ids = draw(st.lists(st.integers(1, 99), max_size=20).map(tuple))
    steps = [draw(st.integers(0, 4)) for _ in range(len(token_ids) + 1)]
    return Choice(token_ids, tuple(accumulate(steps, initial=0)))


def served(made: list[Choice], submit: SubmitRequest, sizes: Iterator[int]) -> Iterator[Event]:
    """What a coordinator sends for a request, of one choice after the other in turn."""
    committed = list(submit.prompt_token_ids[len(PROMPT) :])
    parts: list[Iterator[Event]] = []
    for number, count in enumerate(submit.resume_from or (0,) * len(made)):
        if count >= 0:
            assert tuple(committed[:count]) == made[number].token_ids[:count]
            del committed[:count]
            parts.append(made[number].passes(number, count, sizes))
    assert not committed
    yield STARTED
    for events in zip_longest(*parts):
        yield from (event for event in events if event is not None)


@dataclass
class Seen:
    token_ids: tuple[int, ...] = ()
    text: bytes = b""
    is_over: bool = False

    def add(self, event: TokensNotice | FinishedNotice) -> None:
        assert not self.is_over, "something after the end"
        if isinstance(event, TokensNotice):
            assert event.position == len(self.token_ids)
            self.token_ids += event.token_ids
            self.text += event.text
        else:
            assert event.num_tokens == len(self.token_ids)
            self.is_over = True


@given(
    made=st.lists(choices(), min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=20),
    losses=st.lists(st.integers(0, 12), max_size=6),
    repeats=st.lists(st.booleans(), max_size=20),
    room=st.sampled_from([10_000, 10_000, 5, 12]),
)
def test_a_client_sees_what_it_would_have_seen_undisturbed(
    made: list[Choice], sizes: list[int], losses: list[int], repeats: list[bool], room: int
) -> None:
    """losses: after how many messages each coordinator is lost; the last one stays."""
    submit = make_submit(num_choices=len(made), max_tokens=20)
    journal, seen = Journal(submit), [Seen() for _ in made]
    num_started = 0
    passes, again = cycle(sizes), iter(repeats)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("airdraft.nodes.client.journal.MAX_PROMPT_TOKENS", room)
        for number, loss in enumerate([*losses, 10_000]):
            if journal.is_over:
                break
            events = served(made, journal.request(number, 0.0), passes)
            for event in islice(events, loss):
                for _ in range(1 + next(again, False)):
                    for fresh in journal.take(event):
                        if isinstance(fresh, TokensNotice | FinishedNotice):
                            seen[fresh.choice].add(fresh)
                        else:
                            num_started += 1
    assert journal.is_over
    assert seen == [Seen(each.token_ids, WHOLE[: each.num_shown[-1]], True) for each in made]
    assert num_started == 1
