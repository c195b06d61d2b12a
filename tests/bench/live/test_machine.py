"""The live suite's parts, and nodes that look their tokens up instead of computing them."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from bench.asking import Answer, Taken, ask_one, taken_of
from bench.live.light_nodes import LightDraft, LightTarget, guess_at, key_of, token_at
from bench.live.machine import write_bad_draft
from bench.live.scale import measure
from bench.load.figures import joint_rate
from nodes.catalog import DEFAULT_DRAFT, Catalog, default_cache_dir
from nodes.catalog.gguf import check_gguf
from nodes.client.generation import GenerateOptions
from nodes.config.settings import EngineSettings, environment
from nodes.engine.sampling import Sampling
from nodes.messages import (
    AddedEntry,
    ChainPart,
    CloseStreamNotice,
    CommitNotice,
    GuessNotice,
    LeaseEntry,
    LeaseRequest,
    OpenStreamRequest,
    StreamReadyNotice,
    parts_of,
)
from nodes.service.local import local_mesh


def test_a_bad_draft_is_a_whole_file_that_differs_only_in_its_weights(tmp_path: Path) -> None:
    good = Catalog(default_cache_dir(environment())).ensure(DEFAULT_DRAFT)
    bad = tmp_path / "bad.gguf"
    write_bad_draft(good, bad)
    check_gguf(bad)
    a, b = good.read_bytes(), bad.read_bytes()
    assert len(a) == len(b)
    # Most of the file is weights; the vocabulary before them is the same.
    assert a[:100_000] == b[:100_000]
    assert sum(x != y for x, y in zip(a[-50_000:], b[-50_000:], strict=True)) > 25_000


async def test_streams_asked_together_have_one_rate_and_all_their_figures() -> None:
    slow, toy = (EngineSettings(model=model, cells=4096) for model in ("toy:1@5ms", "toy:1"))
    options = GenerateOptions(max_tokens=400, gamma=3, ignore_eog=True, chat=False)
    async with local_mesh(slow, toy) as (mesh, client):
        taken = Taken()
        while not taken.num_guesses:
            # A draft node may come too late for one text.
            asked = (ask_one(client, text, options) for text in ("one", "two", "three"))
            made = await mesh.beside(gather(*asked))
            taken = taken_of(made)
    assert joint_rate([answer.token_s for answer in made]) > 0
    for answer in made:
        assert len(answer.token_s) == len(answer.token_ids) == 400
        assert answer.asked_s < answer.token_s[0] < answer.token_s[-1]
    assert taken.acceptance == 1.0
    assert 0.0 < taken.guessing_share <= 1.0


async def gather(*asked: Coroutine[Any, Any, Answer]) -> list[Answer]:
    return await asyncio.gather(*asked)


async def test_what_a_coordinator_carries_is_counted_from_outside() -> None:
    carried = await measure(8, 1.0, per_target=4, gamma=4, pass_ms=20.0)
    assert carried.num_streams == 8
    assert carried.num_wrong == 0
    assert carried.tokens_per_s >= carried.passes_per_s > 0
    p50, p99, most = carried.delay_s
    assert 0 < p50 <= p99 <= most
    assert 0 < carried.relay_s[0] <= carried.relay_s[2]
    assert 0 < carried.coordinator_busy <= 1.5
    assert 0 < carried.others_busy <= 1.5


PROMPT = (5, 6)


def open_one(max_tokens: int = 20, **changes: Any) -> OpenStreamRequest:
    sampling = Sampling(seed=3)
    return OpenStreamRequest(7, 1, "x", sampling, max_tokens, (), True, 2, PROMPT, **changes)


def law(start: int, count: int) -> tuple[int, ...]:
    key = key_of(PROMPT, 3, 0)
    return tuple(token_at(key, start + k) for k in range(count))


def opened(**changes: Any) -> LightTarget:
    target = LightTarget()
    ready = StreamReadyNotice(7, 1, 2, has_begun=True)
    assert target.hear(open_one(**changes)) == [ready]
    return target


def guesses(*token_ids: int, stream_id: int = 7) -> GuessNotice:
    part = ChainPart(stream_id, 1, 1, 2, bytes([200] * len(token_ids)))
    return GuessNotice((part,), token_ids)


def test_a_lease_is_run_out_token_by_token() -> None:
    target = opened(num_leased=1)
    assert target.run_pass(0.0).token_ids == law(2, 1)
    assert not target.has_work
    target.hear(LeaseRequest((LeaseEntry(7, 1, 3, 2),)))
    assert [target.run_pass(0.0).token_ids for _ in range(2)] == [law(3, 1), law(4, 1)]
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
    first, second, third = law(2, 3)
    target.hear(guesses(first, second, (third + 1) % 1000))
    # A stream that it does not have is nothing to it.
    target.hear(guesses(first, stream_id=9))
    reply = target.run_pass(0.0)
    (entry,) = reply.entries
    assert reply.token_ids == law(2, num_tokens)
    assert (entry.num_draft_tokens, entry.num_accepted_tokens) == (num_taken, num_accepted)
    is_over = "max_tokens" in changes
    assert entry.finish_reason == ("length" if is_over else "")
    assert target.has_work != is_over


def told(draft: LightDraft, prefix_len: int, num_tokens: int) -> None:
    """Tell a draft node of committed tokens, and of some of a stream that it does not follow."""
    entries = tuple(AddedEntry(s, 1, prefix_len, num_tokens) for s in (7, 8))
    draft.hear(CommitNotice(entries, law(prefix_len, num_tokens) * 2))


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
