"""The live suite's parts: paired ratios, streams asked together, a draft that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.live.answers import ask_together
from bench.live.bad_draft import write_bad_draft
from bench.live.pairs import paired_ratio
from bench.live.scale import measure
from nodes.catalog import DEFAULT_DRAFT, Catalog, default_cache_dir
from nodes.catalog.gguf import check_gguf
from nodes.client.generation import GenerateOptions
from nodes.config.settings import EngineSettings, environment
from nodes.service.local import local_mesh


def test_a_ratio_is_that_of_pairs_with_an_interval_around_it() -> None:
    # Ten times faster in the second half, which pairs do not see.
    pairs = [(k * 10.0 ** (k > 4), 1.1 * k * 10.0 ** (k > 4)) for k in range(1, 10)]
    ratio = paired_ratio(pairs)
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((1.1, 1.1, 1.1))
    noisy = paired_ratio([(1.0, r) for r in (0.8, 0.9, 0.95, 1.0, 1.0, 1.05, 1.1, 1.2, 1.4)])
    assert noisy.median == 1.0
    assert 0.8 <= noisy.low < 1.0 < noisy.high <= 1.4
    assert str(noisy).startswith("1.000 (0.9")


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
        again = await mesh.beside(ask_together(client, ["one"], options))
        while not again.num_guesses:
            # A draft node may come too late for one text.
            again = await mesh.beside(ask_together(client, ["one"], options))
        made = await mesh.beside(ask_together(client, ["one", "two", "three"], options))
    assert made.tokens_per_s > 0
    assert made.num_accepted == made.num_guesses > 0
    assert 0.0 < made.guessing_share <= 1.0
    rounds = made.num_rounds
    made.add(again)
    assert made.num_rounds == rounds + again.num_rounds


async def test_what_a_coordinator_carries_is_counted_from_outside() -> None:
    carried = await measure(8, 1.0, per_target=4, gamma=4, pass_ms=20.0)
    assert carried.num_streams == 8
    assert carried.num_wrong == 0
    assert carried.tokens_per_s >= carried.passes_per_s > 0
    p50, p99, most = carried.delay_s
    assert 0 < p50 <= p99 <= most
    assert 0 < carried.relay_s[0] <= carried.relay_s[2]
    assert 0 < carried.coordinator_busy <= 1.5
