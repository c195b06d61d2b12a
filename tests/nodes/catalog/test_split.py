"""Models in parts are joined, when they are pulled, to the file that was split."""

from pathlib import Path

import pytest

from airdraft.nodes.catalog import (
    DEFAULT_DRAFT,
    DEFAULT_ENTRIES,
    Catalog,
    CatalogError,
    ModelNameError,
)
from airdraft.nodes.catalog.entries import LocalFile
from tests.nodes.catalog.fakes import FakeHub, split_gguf

pytestmark = pytest.mark.slow
NAME = "hf:owner/name/m-00001-of-00003.gguf"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    source = DEFAULT_ENTRIES[DEFAULT_DRAFT].source
    assert isinstance(source, LocalFile)
    path = tmp_path / "m.gguf"
    path.symlink_to(source.path)
    return path


def test_a_pull_of_the_first_part_brings_the_whole_model(
    tmp_path: Path, whole: Path, hub: type[FakeHub]
) -> None:
    *parts, last = split_gguf(whole, tmp_path, 3)
    hub.files |= {("main", part.name): part.read_bytes() for part in parts}
    catalog = Catalog(tmp_path / "cache")
    with pytest.raises(CatalogError, match=r"00003-of-00003\.gguf .*no such file"):
        catalog.pull(NAME)
    hub.files["main", last.name] = last.read_bytes()
    path = catalog.pull(NAME)
    assert path.read_bytes() == whole.read_bytes()
    # The parts that had come were not sent again, and none is left beside the whole file.
    assert hub.asked == [part.name for part in (*parts, last)]
    assert not list((tmp_path / "hub").glob("*/blobs/*"))
    assert catalog.pull(NAME) == catalog.path(NAME) == path
    with pytest.raises(ModelNameError, match=r"give the first one, hf:owner/name/m-00001-of-00003"):
        catalog.pull("hf:owner/name/m-00002-of-00003.gguf")


def test_a_part_on_the_disk_is_not_taken_for_the_model(tmp_path: Path, whole: Path) -> None:
    for part in split_gguf(whole, tmp_path, 2):
        with pytest.raises(ModelNameError, match=r"is one of 2 parts .* `llama-gguf-split --merge"):
            Catalog(tmp_path / "cache").path(str(part))
