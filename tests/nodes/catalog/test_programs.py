"""Files of Ollama and LM Studio have names, by which they are used where they are."""

import hashlib
import json
from pathlib import Path

import pytest

from airdraft.nodes.catalog import Catalog, CatalogError, ModelNameError
from airdraft.nodes.catalog.programs import models_of_programs
from tests.nodes.catalog.fakes import gguf_bytes

CONTENT = gguf_bytes()
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def ollama(folder: Path, name: str) -> Path:
    """A model as Ollama keeps it. name: NAMESPACE/MODEL/TAG."""
    model = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{DIGEST}"}
    licence = {"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:0"}
    manifest = folder / "manifests/registry.ollama.ai" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"layers": [licence, model]}))
    blob = folder / f"blobs/sha256-{DIGEST}"
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(CONTENT)
    return blob


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    return tmp_path


def test_what_is_there_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert models_of_programs() == {}
    blob = ollama(home / ".ollama/models", "library/llama3.2/1b")
    ollama(home / ".ollama/models", "someone/m/latest")
    (home / ".ollama/models/manifests/registry.ollama.ai/library/llama3.2/bad").write_text("[]")
    expected = {"ollama:llama3.2:1b": blob, "ollama:someone/m:latest": blob}
    for folder in (".lmstudio/models", ".cache/lm-studio/models"):
        place = home / folder / "owner" / f"repo{len(folder)}"
        place.mkdir(parents=True)
        for name in ("m.gguf", "mmproj-m.gguf", "p-00001-of-00002.gguf", "x.txt"):
            (place / name).write_bytes(CONTENT)
        expected[f"lmstudio:owner/{place.name}/m.gguf"] = place / "m.gguf"
    assert models_of_programs() == expected
    # That folder takes the place of the usual one.
    blob = ollama(home / "elsewhere", "library/other/latest")
    monkeypatch.setenv("OLLAMA_MODELS", str(home / "elsewhere"))
    found = {name for name in models_of_programs() if name.startswith("ollama:")}
    assert found == {"ollama:other:latest"}


def test_such_a_file_is_used_by_its_name_and_stays_where_it_is(home: Path) -> None:
    blob = ollama(home / ".ollama/models", "library/m/latest")
    catalog = Catalog(home / "cache")
    assert catalog.found() == {"ollama:m:latest": blob}
    with pytest.raises(ModelNameError, match="run `airdraft models pull ollama:m`"):
        catalog.path("ollama:m")
    path = catalog.ensure("ollama:m")
    assert path == catalog.path("ollama:m:latest")
    # Its name is shown, and not that of the blob.
    assert (path.name, path.resolve()) == ("ollama--m--latest.gguf", blob)
    assert catalog.found() == {"ollama:m:latest": path}
    assert catalog.sha256("ollama:m") == DIGEST
    catalog.remove("ollama:m")
    assert not path.exists()
    assert blob.exists()
    with pytest.raises(ModelNameError, match="unknown model 'ollama:none'"):
        catalog.ensure("ollama:none")
    blob.write_bytes(CONTENT[:-1] + b"X")
    with pytest.raises(CatalogError, match=f"instead of {DIGEST}"):
        catalog.pull("ollama:m")
    assert blob.exists()
