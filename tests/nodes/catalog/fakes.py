"""Tiny GGUF files, wheels, catalogue entries and a Hub for the tests of the catalogue."""

import hashlib
import json
import struct
import threading
import urllib.parse
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from airdraft.nodes.catalog import Entry
from airdraft.nodes.catalog.entries import HubFile, LocalFile, Packages, Requantised
from airdraft.nodes.catalog.gguf import opened


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


def split_gguf(path: Path, folder: Path, num_parts: int) -> list[Path]:
    """Split a model into files as llama.cpp does: the first has all keys, and each has tensors."""
    with opened(path) as (header, data):
        (num_keys,) = struct.unpack_from("<Q", data, 16)
        infos, at = [], header.keys_end
        for tensor in header.tensors:
            # Name, dimensions, type; an offset of 8 bytes follows.
            (num_dimensions,) = struct.unpack_from("<I", data, at + 8 + len(tensor.name))
            end = at + 8 + len(tensor.name) + 4 + 8 * num_dimensions + 4
            content = data[tensor.offset :][: tensor.num_blocks * tensor.block_bytes]
            infos.append((data[at:end], content + bytes(-len(content) % 32)))
            at = end + 8
        made = []
        for part in range(num_parts):
            own = infos[part * len(infos) // num_parts : (part + 1) * len(infos) // num_parts]
            keys = data[24 : header.keys_end] if part == 0 else b""
            keys += text("split.no") + struct.pack("<IH", 2, part)
            keys += text("split.count") + struct.pack("<IH", 2, num_parts)
            keys += text("split.tensors.count") + struct.pack("<Ii", 5, len(infos))
            head = b"GGUF" + struct.pack("<IQQ", 3, len(own), (num_keys if part == 0 else 0) + 3)
            head, body = head + keys, b""
            for info, content in own:
                head += info + struct.pack("<Q", len(body))
                body += content
            made.append(folder / f"{path.stem}-{part + 1:05}-of-{num_parts:05}.gguf")
            made[-1].write_bytes(head + bytes(-len(head) % 32) + body)
        return made


def entry(
    name: str,
    content: bytes,
    source: LocalFile | HubFile | Requantised,
    terms: str | None = None,
    packages: Packages | None = None,
) -> Entry:
    is_pinned = not isinstance(source, Requantised)
    return Entry(
        name=name,
        source=source,
        packages=packages,
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


class FakeHub(BaseHTTPRequestHandler):
    """As much of the Hub as its library asks for. files: (revision, path) -> content."""

    files: ClassVar[dict[tuple[str, str], bytes]]
    asked: ClassVar[list[str]]
    tokens: ClassVar[set[str | None]]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self.asked.append(self.path.rpartition("/")[2])
        self.wfile.write(self._answer())

    def _answer(self) -> bytes:
        self.tokens.add(self.headers["Authorization"])
        place, _, _query = urllib.parse.unquote(self.path).partition("?")
        is_list = place.startswith("/api/models/")
        _owner, repo, _, *rest = place.removeprefix("/api/models").strip("/").split("/", 4)
        content = self.files.get((rest[0], "".join(rest[1:])))
        if is_list:
            every = {path: len(data) for (at, path), data in self.files.items() if at == rest[0]}
            items = [{"type": "file", "path": p, "size": n, "oid": "1"} for p, n in every.items()]
            content = json.dumps(items).encode()
        error = {"name": "", "gated": "GatedRepo"}.get(repo, "RepoNotFound")
        error = error or ("EntryNotFound" if content is None else "")
        body = b"" if error or content is None else content
        self.send_response({"": 200, "EntryNotFound": 404}.get(error, 401))
        self.send_header("X-Error-Code", error)
        self.send_header("X-Repo-Commit", hashlib.sha1(rest[0].encode()).hexdigest())
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return body

    def log_message(self, *_args: object) -> None:
        pass


@contextmanager
def fake_hub() -> Iterator[tuple[str, type[FakeHub]]]:
    """The address of a Hub with no file yet, and what it has and was asked for."""
    hub = type("Hub", (FakeHub,), {"files": {}, "asked": [], "tokens": set()})
    with ThreadingHTTPServer(("127.0.0.1", 0), hub) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", hub
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    """Something in the place of the Hub, whose library has an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.delenv("AIRDRAFT_MIRRORS", raising=False)
    with fake_hub() as (address, found):
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield found
