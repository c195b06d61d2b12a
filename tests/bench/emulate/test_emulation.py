"""Emulated nodes as files tell them: costs, recording, draft, and one line for what is wrong."""

from pathlib import Path

import pytest

from airdraft.nodes.config.settings import EngineSettings
from airdraft.nodes.engine.protocol import ModelFileError, Span
from airdraft.policies.analytic import Device, TransformerShape, node_costs
from airdraft.policies.latency import CostTable, NodeCosts
from bench.emulate.recording import read_recording, to_bytes
from bench.emulate.replay import open_engine, read_config
from tests.bench.emulate.recordings import toy_recording
from tests.policies.scenarios import DEVICE, SHAPE

SHIPPED = Path(__file__).parents[3] / "bench" / "emulate"
RECORDING = toy_recording(0.5, num_texts=2, max_tokens=8)
MEASURED = "[costs]\ndecode = {sizes = [1, 8], seconds = [0.01, 0.02]}"


def lines(table):
    return "\n".join(f"{k} = {v!r}" for k, v in table.items())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "r").write_bytes(to_bytes(RECORDING))
    (tmp_path / "device.toml").write_text(f"[device]\n{lines(DEVICE)}")
    (tmp_path / "models.toml").write_text(f"[[model]]\nname = 'm'\n[model.shape]\n{lines(SHAPE)}")
    return tmp_path


def opened(folder, text, *, is_draft=False):
    path = folder / "node.toml"
    path.write_text(text)
    settings = EngineSettings(model=f"replay:{path}", cells=500, max_streams=3)
    return open_engine(settings, is_draft=is_draft)


def test_measured_costs(folder):
    node = opened(folder, f'recording = "r"\n{MEASURED}')
    table = CostTable((1, 8), (0.01, 0.02))
    assert node.costs == node.model.config.costs == NodeCosts(table, table)
    info = node.model.info
    assert (info.model, info.num_cells, info.max_sequences, info.emulated) == ("node", 500, 3, True)
    (row,) = node.model.forward([Span(0, 0, RECORDING.texts[0].prompt_ids, 1)])
    assert row.argmax() == RECORDING.texts[0].output_ids[0]
    text = RECORDING.texts[1]
    assert tuple(node.tokenizer.encode_chat([("user", text.prompt)])) == text.prompt_ids


def test_costs_of_a_device_and_a_model(folder):
    costs = '[costs]\ndevice = "device.toml"\nmodel = "m"\nused_cells = 100'
    head = 'recording = "r"\ndraft = "draft-0"\nmodels = "models.toml"'
    node = opened(folder, f"{head}\n{costs}", is_draft=True)
    assert node.costs == node_costs(TransformerShape(**SHAPE), Device(**DEVICE), used_cells=100)
    assert node.model.config.draft == "draft-0"
    # Cells of their own cost more.
    node = opened(folder, f'recording = "r"\n{MEASURED}\nper_own_cell_s = 1e-3')
    assert node.costs.prefill.at(8, 0, 20) == node.costs.decode.at(8, 0, 20)
    assert node.costs.decode.at(8, 0, 20) == pytest.approx(0.02 + 8 * 20 * 1e-3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[", "not valid TOML"),
        (f'recordings = "r"\n{MEASURED}', "recordings = 'r': unknown key, did you mean recording"),
        (MEASURED, "recording is missing: a text is accepted"),
        (f'recording = "s"\n{MEASURED}', "recording .*s cannot be read: No such file"),
        (f'recording = "r"\ndraft = "x"\n{MEASURED}', "draft = 'x': .* is accepted: draft-0"),
        ('recording = "r"\n[costs]\ndevice = "x"\nmodel = "m"', "costs.device: file .*x not found"),
        (
            'recording = "r"\nmodels = "models.toml"\n[costs]\ndevice = "device.toml"\nmodel = "n"',
            "costs.model = 'n': no such model in models.toml, m are accepted",
        ),
        (f'recording = "r"\n{MEASURED}\nper_own_cell_s = -1', "costs.per_own_cell_s = -1"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder, text, says):
    with pytest.raises(ModelFileError, match=says) as caught:
        opened(folder, text)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    with pytest.raises(ModelFileError, match=r"emulated node .*x\.toml not found"):
        read_config(folder / "x.toml")


@pytest.mark.parametrize("path", sorted((SHIPPED / "nodes").glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_nodes_open(path):
    node = read_config(path)
    assert 1e-4 < node.costs.decode.at(1) < 1
    recordings = [read_recording(each) for each in (SHIPPED / "recordings").glob("*.json.z")]
    assert node.recording in recordings


def test_the_usual_recording_has_texts_of_all_kinds():
    """Streams of an acceptance of 0.4, 0.5, ... 0.9 can be put together, each of two texts."""
    recording = read_recording(SHIPPED / "recordings" / "smollm2-135m.json.z")
    for tenths in range(4, 10):
        low, high = tenths / 10 - 0.05, tenths / 10 + 0.05
        found = [t for d in recording.drafts for t in recording.texts_with(d.name, low, high)]
        assert len(found) >= 2
    assert {text.kind for text in recording.texts} == {"chat", "code", "copy"}
