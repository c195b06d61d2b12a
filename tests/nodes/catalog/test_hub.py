"""Files come from the Hub, else from a mirror of the settings, into the cache of its library."""

import errno
import os
import socket

import pytest

from airdraft.nodes.catalog import FetchError, ModelNameError
from airdraft.nodes.catalog.entries import HubFile
from airdraft.nodes.catalog.errors import HubUnreachableError
from airdraft.nodes.catalog.hub import download, files_of, name_of
from tests.nodes.catalog.fakes import FakeHub, fake_hub

PARTS_OF_ONE = tuple(f"big-Q6_K-0000{number}-of-00002.gguf" for number in (1, 2))
NAMES = ("m-q4_k_m.gguf", *PARTS_OF_ONE, "m-Q8_0.gguf", "mmproj-Q8_0.gguf")
FILE = HubFile("owner/name", "dir/a b.gguf", "v1")
REFUSES = "http://127.0.0.1:1"


def test_a_file_is_downloaded_once_with_the_users_token(
    hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files["v1", FILE.file] = b"content"
    path = download(FILE)
    assert path.read_bytes() == b"content"
    assert download(FILE) == path
    assert hub.asked == ["a%20b.gguf"]
    assert hub.tokens == {"Bearer hf_secret"}
    # It is there when the Hub is not.
    monkeypatch.setenv("HF_ENDPOINT", REFUSES)
    assert download(FILE) == path


def test_a_mirror_is_asked_second_and_sees_no_token(
    hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_hub() as (address, mirror):
        monkeypatch.setenv("AIRDRAFT_MIRRORS", f"{REFUSES} {address}")
        mirror.files["v1", FILE.file] = b"the mirror's"
        assert download(FILE).read_bytes() == b"the mirror's"
        assert mirror.tokens == {None}
        other = HubFile("owner/name", "other.gguf")
        hub.files["main", other.file] = b"the hub's"
        assert download(other).read_bytes() == b"the hub's"
        assert mirror.asked == ["a%20b.gguf"]


@pytest.mark.usefixtures("hub")
def test_failures_are_one_line_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for repo, reason in (
        ("owner/name", "the repository has no such file"),
        ("owner/other", "no such repository, or it is private"),
        ("owner/gated", "accept its terms on its page, then set HF_TOKEN"),
    ):
        with pytest.raises(FetchError, match=f"cannot download a of {repo} .*{reason}") as caught:
            download(HubFile(repo, "a"))
        assert type(caught.value) is FetchError
        assert "\n" not in str(caught.value)

    def unknown(*_arguments: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    with pytest.raises(HubUnreachableError, match=r"hub\.invalid cannot be reached: Name or serv"):
        download(FILE)


def test_a_proxy_that_refuses_counts_as_the_hub(
    hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The fake answers CONNECT with 501.
    monkeypatch.setenv("HTTPS_PROXY", os.environ["HF_ENDPOINT"])
    monkeypatch.setenv("HF_ENDPOINT", "https://somewhere.invalid")
    with pytest.raises(HubUnreachableError, match="the proxy says: 501"):
        download(FILE)
    assert hub.asked == []


def test_a_full_disk_is_no_fault_of_the_hub(
    hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object, **_named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    hub.files["v1", FILE.file] = b"content"
    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    with pytest.raises(OSError, match="No space left"):
        download(FILE)


def test_a_file_of_a_repository_is_named_by_its_quantisation_or_page(
    hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files |= {("main", name): bytes(9) for name in ("README.md", *NAMES)}
    hub.files |= {("v1.0", name): bytes(9) for name in NAMES[-2:]}
    assert files_of("owner/name") == dict.fromkeys(sorted(NAMES), 9)
    page = "https://huggingface.co/owner/name"
    for wanted, name in (
        ("owner/name", "hf:owner/name/m-q4_k_m.gguf"),
        (page, "hf:owner/name/m-q4_k_m.gguf"),
        ("hf.co/owner/name:Q8_0", "hf:owner/name/m-Q8_0.gguf"),
        ("hf:owner/name:q8_0", "hf:owner/name/m-Q8_0.gguf"),
        ("owner/name:Q6_K", f"hf:owner/name/{PARTS_OF_ONE[0]}"),
        # That revision has one file.
        ("owner/name@v1.0", "hf:owner/name@v1.0/m-Q8_0.gguf"),
        (f"{page}/tree/v1.0", "hf:owner/name@v1.0/m-Q8_0.gguf"),
        (f"{page}/blob/main/a/b.gguf", "hf:owner/name/a/b.gguf"),
        (f"{page}/resolve/v1.0/b.gguf?download=true", "hf:owner/name@v1.0/b.gguf"),
        (f"{os.environ['HF_ENDPOINT']}/owner/name", "hf:owner/name/m-q4_k_m.gguf"),
    ):
        assert name_of(wanted) == name
    for wrong in ("owner/name:IQ1_S", "../etc", "owner/name@v1.0:Q4_K_M", "owner/name@"):
        with pytest.raises(ModelNameError) as caught:
            name_of(wrong)
        assert "\n" not in str(caught.value)
    with pytest.raises(FetchError, match="no such repository"):
        name_of("owner/none")
    monkeypatch.setenv("HF_ENDPOINT", REFUSES)
    with pytest.raises(HubUnreachableError, match="refused"):
        name_of("owner/name")
