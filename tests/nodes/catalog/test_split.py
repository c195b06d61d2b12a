"""Models in parts are joined, when they are pulled, to the file that was split."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from airdraft.nodes.catalog import (
    DEFAULT_DRAFT,
    DEFAULT_ENTRIES,
    Catalog,
    CatalogError,
    ModelNameError,
)
from airdraft.nodes.catalog.entries import FileSource
from tests.nodes.catalog.fakes import split_gguf

pytestmark = pytest.mark.slow
NAME = "hf:owner/name/m-00001-of-00003.gguf"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    (source,) = DEFAULT_ENTRIES[DEFAULT_DRAFT].sources  # type: ignore[misc]
    assert isinstance(source, FileSource)
    path = tmp_path / "m.gguf"
    path.symlink_to(source.path)
    return path


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The files of a repository at something in the place of Hugging Face."""
    made = tmp_path / "owner" / "name" / "resolve" / "main"
    made.mkdir(parents=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield made
        server.shutdown()
        thread.join()


def test_a_pull_of_the_first_part_brings_the_whole_model(
    tmp_path: Path, whole: Path, folder: Path
) -> None:
    *_, last = split_gguf(whole, folder, 3)
    kept = last.rename(tmp_path / "kept")
    catalog = Catalog(tmp_path / "cache")
    with pytest.raises(CatalogError, match=r"00003-of-00003\.gguf: HTTP 404"):
        catalog.pull(NAME)
    # The parts that came stay for the next pull, or until they are removed.
    assert len(list((tmp_path / "cache" / "models").glob("*.part"))) == 2
    catalog.remove(NAME)
    assert not list((tmp_path / "cache" / "models").glob("*.part*"))
    kept.rename(last)
    path = catalog.pull(NAME)
    assert path.read_bytes() == whole.read_bytes()
    assert catalog.pull(NAME) == catalog.path(NAME) == path
    left = {each.suffix for each in (tmp_path / "cache" / "models").iterdir()} - {""}
    assert left == {".gguf", ".json"}
    with pytest.raises(ModelNameError, match=r"give the first one, hf:owner/name/m-00001-of-00003"):
        catalog.pull("hf:owner/name/m-00002-of-00003.gguf")


def test_a_part_on_the_disk_is_not_taken_for_the_model(tmp_path: Path, whole: Path) -> None:
    for part in split_gguf(whole, tmp_path, 2):
        with pytest.raises(ModelNameError, match=r"is one of 2 parts .* `llama-gguf-split --merge"):
            Catalog(tmp_path / "cache").path(str(part))
