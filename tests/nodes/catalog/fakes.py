"""Tiny GGUF files, wheels and catalogue entries for the tests of the catalogue."""

import hashlib
import struct
import zipfile
from pathlib import Path

from nodes.catalog import Entry
from nodes.catalog.entries import Download, Requantised


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf_bytes(num_values: int = 64, *, tensor_type: int = 0, value_bytes: int = 4) -> bytes:
    """A GGUF with one tensor and one key of each shape; float32 unless told otherwise."""
    keys = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bc"),
        text("tokenizer.ggml.scores") + struct.pack("<IIQff", 9, 6, 2, 0.5, 1.5),
        text("general.alignment") + struct.pack("<II", 4, 64),
        text("flag") + struct.pack("<I?", 7, True),
    ]
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, len(keys)) + b"".join(keys)
    header += text("token_embd.weight") + struct.pack("<IQQIQ", 2, num_values, 1, tensor_type, 0)
    return header + bytes(-len(header) % 64) + bytes(num_values * value_bytes)


def entry(
    name: str, content: bytes, sources: tuple[Download, ...] | Requantised, terms: str | None = None
) -> Entry:
    is_pinned = not isinstance(sources, Requantised)
    return Entry(
        name=name,
        sources=sources,
        sha256=hashlib.sha256(content).hexdigest() if is_pinned else None,
        size_bytes=len(content),
        licence="MIT",
        summary="a fake",
        terms=terms,
    )


def write_wheel(folder: Path, package: str, member: str, content: bytes) -> Path:
    """A wheel of version 1.0 that pip accepts."""
    stem = f"{package.replace('-', '_')}-1.0"
    path = folder / f"{stem}-py3-none-any.whl"
    tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(member, content)
        wheel.writestr(
            f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        )
        wheel.writestr(f"{stem}.dist-info/WHEEL", tag)
        wheel.writestr(f"{stem}.dist-info/RECORD", "")
    return path
