"""Nodes that look their tokens up: law 1 through guesses, leases and stale messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bench.live.light_nodes import LightDraft, LightTarget, guess_at, key_of, token_at
from nodes.engine.sampling import Sampling
from nodes.messages import (
    AddedEntry,
    ChainPart,
    CloseStreamNotice,
    CommitEntry,
    CommitNotice,
    CommitReply,
    GuessNotice,
    LeaseEntry,
    LeaseRequest,
    OpenStreamRequest,
    StreamReadyNotice,
    parts_of,
)

PROMPT = (5, 6)


def open_one(choice: int = 0, max_tokens: int = 20, **changes: Any) -> OpenStreamRequest:
    sampling = Sampling(seed=3, choice=choice)
    return OpenStreamRequest(7, 1, "x", sampling, max_tokens, (), True, 2, PROMPT, **changes)


def law(choice: int, start: int, count: int) -> tuple[int, ...]:
    key = key_of(PROMPT, 3, choice)
    return tuple(token_at(key, start + k) for k in range(count))


def opened(**changes: Any) -> LightTarget:
    target = LightTarget()
    ready = StreamReadyNotice(7, 1, 2, has_begun=True)
    assert target.hear(open_one(**changes)) == [ready]
    return target


def guesses(token_ids: Sequence[int], start: int = 2, stream_id: int = 7) -> GuessNotice:
    part = ChainPart(stream_id, 1, 1, start, bytes([200] * len(token_ids)))
    return GuessNotice((part,), tuple(token_ids))


def run_pass(target: LightTarget) -> tuple[CommitReply, CommitEntry]:
    """A pass of a target that has one stream to go on with."""
    assert target.has_work
    reply = target.run_pass(0.0)
    (entry,) = reply.entries
    return reply, entry


def test_a_lease_is_run_out_token_by_token() -> None:
    target = opened(num_leased=1)
    assert run_pass(target)[0].token_ids == law(0, 2, 1)
    assert not target.has_work
    target.hear(LeaseRequest((LeaseEntry(7, 1, 3, 2),)))
    assert [run_pass(target)[0].token_ids for _ in range(2)] == [law(0, 3, 1), law(0, 4, 1)]
    assert not target.has_work


@pytest.mark.parametrize(
    ("changes", "num_taken", "num_accepted", "num_tokens"),
    [
        # The third guess is wrong.
        ({}, 3, 2, 3),
        ({"num_guesses": 1}, 1, 1, 2),
        ({"max_tokens": 2}, 3, 2, 2),
    ],
    ids=["right guesses are kept", "the client wants one", "the text ends"],
)
def test_a_pass_keeps_guesses_as_far_as_they_are_right(
    changes: dict[str, int], num_taken: int, num_accepted: int, num_tokens: int
) -> None:
    target = opened(num_leased=9, **changes)
    first, second, third = law(0, 2, 3)
    target.hear(guesses((first, second, (third + 1) % 1000)))
    # A stream that it does not have is nothing to it.
    target.hear(guesses((first,), stream_id=9))
    reply, entry = run_pass(target)
    assert reply.token_ids == law(0, 2, num_tokens)
    assert (entry.num_draft_tokens, entry.num_accepted_tokens) == (num_taken, num_accepted)
    is_over = "max_tokens" in changes
    assert entry.finish_reason == ("length" if is_over else "")
    assert target.has_work != is_over


def told(draft: LightDraft, prefix_len: int, num_tokens: int) -> None:
    """Tell a draft node of committed tokens, and of some of a stream that it does not follow."""
    entries = tuple(AddedEntry(s, 1, prefix_len, num_tokens) for s in (7, 8))
    draft.hear(CommitNotice(entries, law(0, prefix_len, num_tokens) * 2))


def run_out(draft: LightDraft) -> list[GuessNotice]:
    """Passes until it has guessed as far ahead as it does."""
    made = []
    while draft.has_work:
        made.append(draft.run_pass(0.002))
    return made


def test_a_draft_node_guesses_ahead_and_goes_back_after_wrong_guesses() -> None:
    key = key_of(PROMPT, 3, 0)
    first_wrong = next(k for k in range(2, 1000) if guess_at(key, k) != token_at(key, k))
    draft = LightDraft()
    assert draft.hear(open_one()) == [StreamReadyNotice(7, 1, 2)]
    end, chains = 2, set()
    for length in range(1, first_wrong):
        if length > 1:
            told(draft, length, 1)
        notices = run_out(draft)
        assert notices
        for notice in notices:
            ((part, token_ids),) = parts_of(notice)
            assert (part.stream_id, part.start) == (7, end)
            assert token_ids == (guess_at(key, end),)
            chains.add(part.chain)
            end += 1
    assert len(chains) == 1
    told(draft, first_wrong, 1)
    first, *rest = run_out(draft)
    assert first.parts[0].start == first_wrong + 1
    assert all(notice.parts[0].chain not in chains for notice in (first, *rest))


def test_a_stream_that_is_closed_is_forgotten() -> None:
    target, draft = opened(num_leased=9), LightDraft()
    draft.hear(open_one())
    assert target.has_work
    assert draft.has_work
    for node in (target, draft):
        node.hear(CloseStreamNotice(7, 1))
        assert not node.has_work
