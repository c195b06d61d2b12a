import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airdraft.nodes.catalog.gguf import GgufError, check_gguf
from tests.nodes.catalog.fakes import gguf_bytes, text


def write(folder: Path, content: bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("tensor_type", "num_values", "num_bytes"),
    [(0, 64, 256), (1, 64, 128), (2, 64, 36), (8, 64, 68), (14, 512, 420), (99, 64, 0)],
)
def test_whole_files_pass(
    tmp_path: Path, tensor_type: int, num_values: int, num_bytes: int
) -> None:
    header = gguf_bytes(num_values, tensor_type=tensor_type, value_bytes=0)
    check_gguf(write(tmp_path, header + bytes(num_bytes)))
    if num_bytes:
        with pytest.raises(GgufError, match=r"is truncated: \d+ of \d+ B"):
            check_gguf(write(tmp_path, header + bytes(num_bytes - 1)))


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    content = gguf_bytes()
    # One without keys and tensors is whole.
    check_gguf(write(tmp_path, header(0, 0)))
    for size in range(len(content)):
        with pytest.raises(GgufError, match=r"truncated|is not a GGUF"):
            check_gguf(write(tmp_path, content[:size]))


def header(num_tensors: int, num_keys: int, *parts: bytes, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_keys) + b"".join(parts)


ALIGNED_TO_3 = text("general.alignment") + struct.pack("<II", 4, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not a GGUF file"),
        (b"PK\3\4" + bytes(60), "is not a GGUF file"),
        (header(0, 0, version=1), "version 1"),
        (header(1 << 60, 0), "tensors, at most"),
        (header(0, 1 << 60), "keys, at most"),
        (header(0, 1, text("k"), b"\x63\0\0\0"), "unknown type 99"),
        (header(0, 1, text("k"), struct.pack("<IIQ", 9, 8, 1 << 40)), "items in an array"),
        (header(0, 1, text("k"), struct.pack("<IIQ", 9, 9, 1)), "unknown type 9"),
        (header(0, 1, struct.pack("<Q", (1 << 64) - 1)), "a name has"),
        # An endless name is refused before it is copied.
        (header(0, 1, struct.pack("<Q", 1 << 17), bytes(1 << 17)), "a name has 131072 B"),
        (header(1, 1, ALIGNED_TO_3, text("t"), struct.pack("<IIQ", 0, 0, 0)), "alignment 3"),
        (header(1, 0, text("t"), struct.pack("<I", 5)), "5 dimensions"),
    ],
)
def test_damaged_headers_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(GgufError, match=reason):
        check_gguf(write(tmp_path, content))


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [
        ("llama.attention.head_count", "I", 0),
        ("llama.block_count", "I", 1 << 31),
        ("llama.embedding_length", "Q", 1 << 60),
        ("qwen2.context_length", "i", -1),
        ("gemma3.attention.key_length", "H", 0),
    ],
)
def test_sizes_that_no_model_has_are_refused(
    tmp_path: Path, name: str, kind: str, value: int
) -> None:
    """libllama divides by them and allocates from them."""
    number = {"I": 4, "i": 5, "Q": 10, "H": 2}[kind]
    content = header(0, 1, text(name), struct.pack("<I" + kind, number, value))
    with pytest.raises(GgufError, match=rf"{name} is {value}, \d+ to \d+ is possible"):
        check_gguf(write(tmp_path, content))


@pytest.mark.parametrize("architecture", ["mamba", "rwkv7"])
def test_a_model_without_attention_may_say_that_it_has_none(
    tmp_path: Path, architecture: str
) -> None:
    """llama.cpp's converter writes such files."""
    names = ("feed_forward_length", "attention.head_count")
    keys = [text(f"{architecture}.{name}") + struct.pack("<II", 4, 0) for name in names]
    check_gguf(write(tmp_path, header(0, len(keys), *keys)))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(4, 250), value=st.integers(0, 255))
def test_a_changed_byte_never_ends_in_another_error(tmp_path: Path, at: int, value: int) -> None:
    content = bytearray(gguf_bytes())
    content[at] = value
    with contextlib.suppress(GgufError):
        check_gguf(write(tmp_path, bytes(content)))
