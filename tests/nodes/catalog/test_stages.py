"""The files of stages: what each has of a model's file, and what cannot be cut."""

from pathlib import Path

import pytest

from airdraft.nodes.catalog.cuts import CutError
from airdraft.nodes.catalog.gguf import check_gguf, declared_by, opened
from airdraft.nodes.catalog.stages import embedding_of, part_file, part_named, write_stage
from airdraft.nodes.engine.metadata import Blocks
from tests.engine.kernels.tiny_models import Shape, write_header, write_model

pytestmark = pytest.mark.slow

SHAPE = Shape(256, 4, 1, 64, 256, layers=3)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_model(path, SHAPE, "Q8_0")
    return path


def cut(path: Path, part: Blocks, out: Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Returns the texts and the tensors of a stage's file."""
    told = list[tuple[int, int | None]]()
    write_stage(path, part, "ab" * 32, out, lambda _name, *done: told.append(done))
    check_gguf(out)
    assert [file.name for file in out.parent.iterdir()] == [out.name]
    assert told == sorted(told)
    with opened(out) as (header, _):
        return header.texts, {tensor.name: tensor.dims for tensor in header.tensors}


def test_parts_have_names(path: Path) -> None:
    assert [part_named(path, f"{k}/3").first for k in (1, 2, 3)] == [0, 1, 2]
    assert part_named(path, "3/3").are_last
    assert part_named(path, "1-3") == Blocks(1, 3, 3)
    for wrong, why in (
        ("", "0-14 for blocks 0 to 13, is accepted"),
        ("1", "1/2 for the first of two parts"),
        ("3/2", "1/2 for the first of two parts"),
        ("0/2", "1/2 for the first of two parts"),
        ("1/1", "1 stages: tiny.gguf can have 2 to 3"),
        ("1/4", "4 stages: tiny.gguf can have 2 to 3"),
        ("0-3", "has 3 blocks, of which a part has fewer"),
        ("2-1", "has 3 blocks, of which a part has fewer"),
        ("1-4", "has 3 blocks, of which a part has fewer"),
    ):
        with pytest.raises(CutError, match=why):
            part_named(path, wrong)


def test_the_file_of_a_part_is_written_once(path: Path, tmp_path: Path) -> None:
    told = list[str]()

    def cut_out(part: str, model_hash: str) -> Path:
        return part_file(path, part, model_hash, tmp_path, lambda name, *_: told.append(name))

    found = cut_out("1-2", "ab" * 32)
    assert declared_by(found).blocks == Blocks(1, 2, 3)
    assert set(told) == {"tiny-1-2.gguf"}
    told.clear()
    assert cut_out("2/3", "ab" * 32) == found
    assert not told
    # Another model of this name has files of its own.
    assert cut_out("2/3", "cd" * 32) != found


def test_each_stage_has_its_blocks_and_the_last_one_the_vocabulary(
    path: Path, tmp_path: Path
) -> None:
    with opened(path) as (header, data):
        whole = {tensor.name: tensor for tensor in header.tensors}
        matrix = whole["blk.2.ffn_up.weight"]
        wanted = data[matrix.offset : matrix.offset + matrix.num_blocks * matrix.block_bytes]
    texts, first = cut(path, Blocks(0, 2, 3), tmp_path / "first" / "1.gguf")
    assert texts["llama.block_count"] == "2"
    assert texts["airdraft.stage.model"] == "ab" * 32
    assert texts["tokenizer.ggml.model"] == "no_vocab"
    blocks = {name for name in whole if name.startswith(("blk.0.", "blk.1."))}
    assert {name for name in first if name.startswith("blk.")} == blocks
    assert first["token_embd.weight"] == first["output.weight"] == (256, 32)
    texts, last = cut(path, Blocks(2, 3, 3), tmp_path / "last" / "2.gguf")
    numbers = [texts[f"airdraft.stage.{name}"] for name in ("first", "end", "count")]
    assert numbers == ["2", "3", "3"]
    assert texts["tokenizer.ggml.model"] == "llama"
    assert last["token_embd.weight"] == last["output.weight"] == (256, 300)
    assert "blk.1.ffn_up.weight" not in last
    with opened(tmp_path / "last" / "2.gguf") as (header, data):
        found = next(tensor for tensor in header.tensors if tensor.name == "blk.0.ffn_up.weight")
        assert data[found.offset : found.offset + len(wanted)] == wanted
    table = embedding_of(tmp_path / "last" / "2.gguf")
    assert (table.width, table.num_rows, table.row_bytes) == (256, 300, 8 * 34)


def test_numbers_of_each_block_go_with_their_blocks(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    key = b"llama.attention.head_count_kv"
    at = data.index(key) + len(key)
    # One number becomes an array of as many as there are blocks.
    items = b"".join(number.to_bytes(4, "little") for number in (7, 8, 9))
    array = (9).to_bytes(4, "little") + (4).to_bytes(4, "little") + (3).to_bytes(8, "little")
    other = tmp_path / "arrays.gguf"
    changed = data[:at] + array + items + data[at + 8 :]
    # The header is longer by 20 bytes, so the tensors begin at the next multiple of 32.
    with opened(path) as (header, _):
        start = min(tensor.offset for tensor in header.tensors)
    padding = (-(start + 20)) % 32 if (start + 20) % 32 else 0
    other.write_bytes(changed[: start + 20] + bytes(padding) + changed[start + 20 :])
    cut(other, Blocks(1, 3, 3), tmp_path / "out" / "2.gguf")
    made = (tmp_path / "out" / "2.gguf").read_bytes()
    at = made.index(key) + len(key)
    assert made[at + 8 : at + 16] == (2).to_bytes(8, "little")
    assert made[at + 16 : at + 24] == items[4:]


@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        (Blocks(0, 2, 6), {"leading_dense_block_count": "2", "embedding_scale": "12.0"}),
        (Blocks(2, 4, 6), {"leading_dense_block_count": "1", "embedding_scale": "0.0"}),
        (Blocks(4, 6, 6), {"leading_dense_block_count": "0", "nextn_predict_layers": "1"}),
    ],
)
def test_what_holds_for_the_first_or_last_blocks_stays_with_them(
    tmp_path: Path, part: Blocks, wanted: dict[str, str]
) -> None:
    values = {"block_count": 6, "leading_dense_block_count": 3, "nextn_predict_layers": 1}
    keys = {f"glm4moe.{name}": value for name, value in values.items()}
    keys |= {"general.architecture": "glm4moe", "glm4moe.embedding_scale": 12.0}
    write_header(tmp_path / "m.gguf", keys)
    write_stage(tmp_path / "m.gguf", part, "ab" * 32, tmp_path / "1.gguf", lambda *_: None)
    with opened(tmp_path / "1.gguf") as (header, _):
        found = {name.removeprefix("glm4moe."): text for name, text in header.texts.items()}
    last = {"nextn_predict_layers": "0"} if not part.are_last else {}
    assert found | wanted | last == found


def test_nothing_is_left_of_a_file_that_could_not_be_written(path: Path, tmp_path: Path) -> None:
    def fail(*_told: object) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_stage(path, Blocks(0, 2, 3), "ab" * 32, tmp_path / "out" / "1.gguf", fail)
    assert list((tmp_path / "out").iterdir()) == []
