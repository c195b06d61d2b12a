"""Which model files a node opens: the catalogue's with their hash, others where they may lie."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from airdraft.nodes.catalog import DEFAULT_TARGET, CatalogError
from airdraft.nodes.config.settings import ConfigError, EngineSettings
from airdraft.nodes.worker.engines import checked_model, kept_hash
from tests.nodes.catalog.fakes import gguf_bytes

CONTENT = gguf_bytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def model_file(folder: Path, name: str = "x.gguf") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(CONTENT)
    return folder / name


def test_a_file_comes_with_its_hash_and_must_be_the_one_it_should_be(tmp_path: Path) -> None:
    path = model_file(tmp_path)
    for wanted in ("", SHA256.upper()):
        good = EngineSettings(model=str(path), model_sha256=wanted)
        assert checked_model(good, tmp_path / "cache") == (path, SHA256)
    with pytest.raises(CatalogError, match=f"SHA-256 {SHA256} instead of {'0' * 64}"):
        checked_model(EngineSettings(model=str(path), model_sha256="0" * 64), tmp_path)
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        EngineSettings(model="x", model_sha256="abc")


def test_a_file_of_the_catalogue_that_was_changed_is_not_opened(tmp_path: Path) -> None:
    """Of the same size, so that nothing but the hash tells."""
    path = model_file(tmp_path / "models", f"{DEFAULT_TARGET}.gguf")
    manifest = {"sha256": SHA256, "size_bytes": len(CONTENT)}
    path.with_suffix(".json").write_text(json.dumps(manifest))
    settings = EngineSettings(model=DEFAULT_TARGET)
    assert checked_model(settings, tmp_path) == (path, SHA256)
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(CatalogError, match="get the file again"):
        checked_model(settings, tmp_path)


# -- hashes that are kept --------------------------------------------------------------------------


def test_a_file_that_has_not_changed_is_not_hashed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, kept = tmp_path / "model.gguf", tmp_path / "kept"
    path.write_bytes(b"a model")
    sha256 = hashlib.sha256(b"a model").hexdigest()
    assert kept_hash(path, kept) == sha256

    def hashed(_path: Path) -> str:
        pytest.fail("it is hashed again")

    monkeypatch.setattr("airdraft.nodes.worker.engines.hash_file", hashed)
    assert kept_hash(path, kept) == sha256


@pytest.mark.parametrize("how", ["written", "replaced", "nonsense"])
def test_a_file_that_has_changed_is_hashed_again(tmp_path: Path, how: str) -> None:
    path, other, kept = tmp_path / "model.gguf", tmp_path / "other.gguf", tmp_path / "kept"
    path.write_bytes(b"a model")
    other.write_bytes(b"another")
    kept_hash(path, kept)
    if how == "written":
        path.write_bytes(b"another")
        # A clock may be too coarse to have moved on.
        os.utime(path, (1, 1))
    elif how == "replaced":
        other.replace(path)
    else:
        (file,) = kept.iterdir()
        file.write_text("nonsense")
    for _ in range(2):
        assert kept_hash(path, kept) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_hash_that_cannot_be_kept_is_used_all_the_same(tmp_path: Path) -> None:
    path, kept = tmp_path / "model.gguf", tmp_path / "kept"
    path.write_bytes(b"a model")
    kept.write_text("no directory")
    assert kept_hash(path, kept) == hashlib.sha256(b"a model").hexdigest()
