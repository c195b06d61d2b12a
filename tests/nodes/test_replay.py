"""Law 1 by replay: emulated meshes give the recorded texts, with the recorded acceptance."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodes.client.generation import GenerateOptions
from nodes.config.settings import ConfigError, DraftConfig, EngineSettings, TargetConfig
from nodes.engine.recording import read_recording, to_bytes
from nodes.engine.replay import ReplayConfig, ReplayModel
from nodes.engine.toy import ToyConfig
from nodes.messages import MAX_GAMMA
from nodes.service.local import local_mesh
from nodes.service.roles import run_draft, run_target
from nodes.worker.engines import calibration_of
from policies.acceptance import DraftCalibration
from tests.engine.recordings import COSTS, toy_recording
from tests.nodes.memory_mesh import ask
from tests.nodes.pure_mesh import StreamCase
from tests.nodes.replay_mesh import ReplayMesh, mesh_case, num_accepted, stream_case

SHIPPED = Path(__file__).parents[2] / "bench" / "emulate" / "recordings" / "smollm2-135m.json.z"
TOYS = toy_recording(0.5, 0.9, num_texts=5, max_tokens=50, eog_rate=0.02)


streams_of_toys = st.builds(
    stream_case,
    st.sampled_from(TOYS.texts),
    max_tokens=st.integers(1, 60),
    ignore_eog=st.booleans(),
    gamma=st.sampled_from([None, None, *range(9)]),
    is_cancelled=st.sampled_from([False, False, False, True]),
)


@pytest.mark.slow
@settings(max_examples=100, suppress_health_check=list(HealthCheck), database=None)
@given(
    streams=st.lists(streams_of_toys, min_size=1, max_size=5),
    agreements=st.lists(st.sampled_from([0.0, 1.0]), max_size=2),
    churns=st.integers(0, 4),
    num_upset=st.integers(0, 3),
    kinds=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_stream_becomes_its_recorded_text(
    streams: list[StreamCase],
    agreements: list[float],
    churns: int,
    num_upset: int,
    kinds: tuple[bool, bool],
    seed: int,
) -> None:
    case = mesh_case(
        streams,
        agreements,
        num_churns=churns,
        num_upset=num_upset,
        has_wild_policy=kinds[0],
        has_lookup=kinds[1],
        move_seed=seed,
    )
    ReplayMesh(case, TOYS).run()


@pytest.mark.parametrize("gamma", range(9))
@pytest.mark.parametrize("draft", [0, 1])
def test_acceptance_in_a_mesh_is_that_of_the_recording(draft: int, gamma: int) -> None:
    streams = [stream_case(text, gamma=gamma) for text in TOYS.texts]
    mesh = ReplayMesh(mesh_case(streams, [float(draft)]), TOYS)
    mesh.run()
    assert len(mesh.rounds) > 10 or gamma == 0
    for text, place, made, accepted in mesh.rounds:
        assert 0 < made <= gamma
        assert accepted == num_accepted(text, draft, place, made)


def test_real_texts_come_out_and_are_accepted_as_recorded() -> None:
    recording = read_recording(SHIPPED)
    for draft, described in enumerate(recording.drafts):
        texts = recording.texts_with(described.name, 0.35, 0.75)[:4]
        streams = [stream_case(text, gamma=gamma) for gamma, text in enumerate(texts, start=1)]
        case = mesh_case(
            streams,
            [float(draft)],
            target=ToyConfig(num_vocab=2, num_cells=4000, max_sequences=5, max_batch_tokens=256),
        )
        mesh = ReplayMesh(case, recording)
        mesh.run()
        made, accepted = (sum(r[i] for r in mesh.rounds) for i in (2, 3))
        assert accepted == sum(num_accepted(r[0], draft, *r[1:3]) for r in mesh.rounds)
        assert 0.2 * made < accepted < made
        assert len(mesh.token_ids) == 4


def test_a_recording_has_texts_of_all_kinds() -> None:
    """Streams of an acceptance of 0.4, 0.5, ... 0.9 can be put together, each of two texts."""
    recording = read_recording(SHIPPED)
    for tenths in range(4, 10):
        low, high = tenths / 10 - 0.05, tenths / 10 + 0.05
        found = [t for d in recording.drafts for t in recording.texts_with(d.name, low, high)]
        assert len(found) >= 2
    assert {text.kind for text in recording.texts} == {"chat", "code", "copy"}


NODE = """\
recording = "toys"
{draft}
[costs]
decode = {{sizes = [1, 32], seconds = [{pass_s}, {pass_s}]}}
"""


@pytest.fixture
def node_files(tmp_path: Path) -> Path:
    (tmp_path / "toys").write_bytes(to_bytes(TOYS))
    # Slow enough that guesses come before the passes that they are for.
    (tmp_path / "target.toml").write_text(NODE.format(draft="", pass_s=3e-3))
    (tmp_path / "draft.toml").write_text(NODE.format(draft='draft = "draft-1"', pass_s=1e-4))
    return tmp_path


@pytest.mark.slow
async def test_processes_give_recorded_texts(node_files: Path) -> None:
    target, draft = (
        EngineSettings(model=f"replay:{node_files / name}")
        for name in ("target.toml", "draft.toml")
    )
    async with local_mesh(target, draft, lookup=False) as (mesh, client):
        nodes = (await client.nodes()).nodes
        assert [n.emulated for n in nodes if n.role != "client"] == [True, True]
        num_accepted = dict.fromkeys((None, 0, 1, 4, MAX_GAMMA), 0)
        for gamma in num_accepted:
            for text in TOYS.texts:
                options = GenerateOptions(max_tokens=len(text.output_ids), gamma=gamma)
                (answer,) = await mesh.beside(ask(client, options, text.prompt))
                ended = text.output_ids[-1] in TOYS.eog_ids
                assert tuple(answer.token_ids) == text.output_ids[: -1 if ended else None]
                pieces = [TOYS.pieces[token_id] for token_id in answer.token_ids]
                assert answer.text == b"".join(pieces)
                assert answer.figures is not None
                num_accepted[gamma] += answer.figures.num_accepted_tokens
        assert num_accepted.pop(0) == 0
        assert all(num_accepted.values())


async def test_nodes_refuse_files_of_the_other_role(node_files: Path) -> None:
    draft = EngineSettings(model=f"replay:{node_files / 'draft.toml'}")
    with pytest.raises(ConfigError, match=r"draft\.toml': for a target the file must not"):
        await run_target(TargetConfig(connect="ipc:///nobody", engine=draft))
    target = EngineSettings(model=f"replay:{node_files / 'target.toml'}")
    with pytest.raises(ConfigError, match=r"target\.toml': for a draft node the file needs"):
        await run_draft(DraftConfig(connect="ipc:///nobody", engine=target))


def test_a_draft_is_read_by_its_recorded_calibration() -> None:
    recording = read_recording(SHIPPED)

    def chance(draft: str) -> float:
        config = ReplayConfig(name="box", recording=recording, costs=COSTS, draft=draft)
        return calibration_of(ReplayModel(config)).greedy.chance(0.5)

    unknown = DraftCalibration().greedy.chance(0.5)
    assert chance("smollm2-draft") != unknown
    assert chance("smollm2-135m-q4_0") == unknown
