"""Nodes that look their tokens up: law 1 through rounds, leases and stale messages."""

from __future__ import annotations

from typing import Any

from bench.live.light_nodes import (
    LightDraft,
    LightTarget,
    guess_at,
    key_of,
    light_profile,
    token_at,
)
from nodes.engine.sampling import Sampling
from nodes.messages import (
    CloseStreamNotice,
    CommitReply,
    DraftEntry,
    DraftRequest,
    GuessEntry,
    LeaseEntry,
    LeaseRequest,
    OpenStreamRequest,
    StreamReadyNotice,
    VerifyRequest,
)
from nodes.profile import costs_of, decode_profile

PROMPT = (5, 6)


def open_one(choice: int = 0, max_tokens: int = 20) -> OpenStreamRequest:
    sampling = Sampling(seed=3, choice=choice)
    return OpenStreamRequest(7, 1, "x", sampling, max_tokens, (), True, 2, PROMPT)


def law(choice: int, start: int, count: int) -> tuple[int, ...]:
    key = key_of(PROMPT, 3, choice)
    return tuple(token_at(key, start + k) for k in range(count))


def passes(target: LightTarget) -> CommitReply:
    assert target.has_work
    return target.run_pass(0.0)


def opened(**changes: Any) -> LightTarget:
    target = LightTarget()
    assert target.hear(open_one(**changes)) == [StreamReadyNotice(7, 1, 2)]
    return target


def test_texts_differ_by_choice_and_drafts_are_mostly_right() -> None:
    assert law(0, 2, 20) != law(1, 2, 20)
    key = key_of(PROMPT, 3, 0)
    right = sum(guess_at(key, k) == token_at(key, k) for k in range(2000))
    assert 1600 < right < 1950


def test_a_lease_is_run_out_token_by_token() -> None:
    target = opened()
    target.hear(LeaseRequest((LeaseEntry(7, 1, 2, 2),)))
    for position in (2, 3):
        reply = passes(target)
        assert reply.token_ids == law(0, position, 1)
        assert reply.entries[0].prefix_len == position
    assert not target.has_work


def test_guesses_are_kept_as_far_as_they_are_right() -> None:
    target = opened()
    first, second, third = law(0, 2, 3)
    wrong = (third + 1) % 1000
    target.hear(VerifyRequest(1, (GuessEntry(7, 1, 2, 3),), (first, second, wrong)))
    reply = passes(target)
    assert reply.token_ids == (first, second, third)
    assert (reply.entries[0].num_draft_tokens, reply.entries[0].num_accepted_tokens) == (3, 2)
    # What does not follow the text is left out.
    target.hear(VerifyRequest(2, (GuessEntry(7, 1, 2, 0), GuessEntry(9, 1, 2, 0)), ()))
    assert passes(target).entries == ()


def test_a_text_ends_with_its_last_token() -> None:
    target = opened(max_tokens=2)
    target.hear(VerifyRequest(1, (GuessEntry(7, 1, 2, 3),), law(0, 2, 3)))
    (entry,) = passes(target).entries
    assert (entry.num_tokens, entry.num_accepted_tokens, entry.finish_reason) == (2, 2, "length")
    target.hear(CloseStreamNotice(7, 1))
    assert not target.has_work


def test_a_draft_node_guesses_after_what_it_is_told() -> None:
    draft = LightDraft()
    assert draft.hear(open_one()) == [StreamReadyNotice(7, 1, 2)]
    entries = DraftEntry(7, 1, 2, 1, 3, 0), DraftEntry(8, 1, 2, 0, 3, 0)
    draft.hear(DraftRequest(4, entries, (1,)))
    assert draft.has_work
    reply = draft.run_pass(0.002)
    key = key_of(PROMPT, 3, 0)
    assert reply.entries == (GuessEntry(7, 1, 3, 3),)
    assert reply.draft_token_ids == tuple(guess_at(key, k) for k in (3, 4, 5))
    assert reply.draft_us == 2000
    draft.hear(CloseStreamNotice(7, 1))
    assert not draft.has_work


def test_a_profile_says_what_passes_take_and_that_nothing_is_real() -> None:
    profile = decode_profile(light_profile("target", 0.02))
    assert profile.emulated
    assert costs_of(profile).decode.at(100, 0, 0) == 0.02
