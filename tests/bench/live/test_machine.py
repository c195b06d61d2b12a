"""The live suite's parts, and nodes that look their tokens up instead of computing them."""

import asyncio
from collections.abc import Coroutine
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from airdraft.nodes.catalog import DEFAULT_DRAFT, Catalog, default_cache_dir
from airdraft.nodes.catalog.gguf import check_gguf
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.config.settings import CoordinatorConfig, EngineSettings
from airdraft.nodes.config.sources import environment
from airdraft.nodes.messages import StreamFigures
from airdraft.nodes.service.local import local_mesh
from bench.__main__ import bench
from bench.asking import Answer, Taken, ask_one, rate, taken_of
from bench.live.machine import write_bad_draft
from bench.live.scale import measure
from bench.load.figures import joint_rate
from tests.bench.distill.fakes import write_target


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
    config = CoordinatorConfig(prompt_lookup=False)
    async with local_mesh(slow, toy, config=config) as (mesh, client):
        taken = Taken()
        while not taken.num_guesses:
            # A draft node may come too late for one text.
            asked = (ask_one(client, text, options) for text in ("one", "two", "three"))
            made = await mesh.beside(gather(*asked))
            taken = taken_of(made)
    assert joint_rate([answer.token_s for answer in made]) > 0
    for answer in made:
        assert len(answer.token_s) == len(answer.token_ids) == 400
        assert answer.token_s[0] < answer.token_s[-1]
    assert taken.acceptance == 1.0
    assert 0.0 < taken.guessing_share <= 1.0


def test_a_conversation_is_as_fast_as_its_turns() -> None:
    """Two turns of three tokens, each with two tokens in two seconds behind its first one."""
    figures = StreamFigures(0, 6, 0, 0, 0, 0, "")
    times = (1.0, 2.0, 3.0, 11.0, 12.0, 13.0)
    both = Answer((1,) * 6, "", (figures, figures), times, 4.0)
    assert rate([both]) == 1.0
    one = Answer((1,) * 3, "", (figures,), times[:3], 2.0)
    assert rate([one]) == 1.0
    assert rate([one, one]) == 2.0


def test_answers_without_a_second_token_have_no_rate() -> None:
    figures = StreamFigures(0, 0, 0, 0, 0, 0, "")
    nothing, one, three = (
        Answer(tuple(range(len(at))), "", (figures,), at, max(1e-9, *at, 0.0))
        for at in ((), (1.0,), (2.0, 3.0, 4.0))
    )
    for answers in ([nothing], [one], [nothing, nothing], [nothing, one]):
        assert rate(answers) == 0.0
    assert rate([nothing, three]) == 1.0


@pytest.mark.skipif(find_spec("gguf") is None, reason="the extra `distill` is not installed (gguf)")
def test_a_node_that_cannot_start_is_told_in_a_line(tmp_path: Path) -> None:
    write_target(tmp_path / "x.gguf")
    options = ["--target", str(tmp_path / "x.gguf"), "--draft", "none", "--streams", "1"]
    made = CliRunner().invoke(bench, ["speed", *options, "--prompts", "1"])
    assert made.exit_code == 1
    assert made.stderr.splitlines()[-1].startswith("Error: ")


async def gather(*asked: Coroutine[Any, Any, Answer]) -> list[Answer]:
    return await asyncio.gather(*asked)


async def test_what_a_coordinator_carries_is_counted_from_outside() -> None:
    carried = await measure(8, 1.0, per_target=4, gamma=4, pass_ms=20.0)
    assert carried.num_streams == 8
    assert carried.num_wrong == 0
    assert carried.tokens_per_s >= carried.passes_per_s > 0
    p50, p99, most = carried.delay_s
    assert 0 < p50 <= p99 <= most
    assert 0 < carried.coordinator_busy <= 1.5
    assert 0 < carried.others_busy <= 1.5
