"""Key files: only for their owner's eyes, whole or not there, and no secret in any message."""

import os
import stat
from pathlib import Path

import pytest

from airdraft.mesh.errors import KeysError
from airdraft.mesh.keys import (
    KnownCoordinator,
    is_key,
    is_name,
    read_coordinator,
    read_key_pair,
    write_coordinator,
    write_key_pair,
)
from airdraft.mesh.security import new_key_pair


def test_a_pair_comes_back_from_a_file_that_only_its_owner_can_read(tmp_path):
    pair = new_key_pair()
    path = tmp_path / "new" / "node.key"
    write_key_pair(path, pair)
    assert read_key_pair(path) == pair
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["node.key"]
    # Replaced whole, whatever the old one's mode was.
    path.chmod(0o640)
    write_key_pair(path, new_key_pair())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_secret_that_others_can_get_at_is_refused(tmp_path):
    path = tmp_path / "node.key"
    assert read_key_pair(path) is None
    write_key_pair(path, new_key_pair())
    for mode in (0o640, 0o604, 0o660, 0o610, 0o601):
        path.chmod(mode)
        says = rf"can read key file .*node\.key .*{mode:o}.*chmod 600"
        with pytest.raises(KeysError, match=says):
            read_key_pair(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"public = 1",
        b"\xff\xfe",
        b"public = ",
        b'public = "short"\nsecret = "short"',
        b'public = "' + b"a" * 40 + b'"',
        b'secret = "' + b"a" * 40 + b'"\npublic = ["x"]',
    ],
)
def test_a_file_that_holds_no_pair_says_so_and_shows_none_of_it(tmp_path, content):
    path = tmp_path / "node.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeysError, match=r"node\.key") as caught:
        read_key_pair(path)
    assert "aaaa" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_holds_no_pair(tmp_path):
    (tmp_path / "node.key").mkdir(mode=0o700)
    with pytest.raises(KeysError, match="not a regular file"):
        read_key_pair(tmp_path / "node.key")
    (tmp_path / "file").write_text("")
    with pytest.raises(KeysError, match="cannot be written"):
        write_key_pair(tmp_path / "file" / "node.key", new_key_pair())


def test_a_file_that_a_rotation_removes_meanwhile_is_no_pair(tmp_path, monkeypatch):
    path = tmp_path / "node.key"
    write_key_pair(path, new_key_pair())
    opened = Path.open

    def open_late(self, *args):
        self.unlink()
        return opened(self, *args)

    monkeypatch.setattr(Path, "open", open_late)
    assert read_key_pair(path) is None


@pytest.mark.parametrize("endpoint", ["tcp://10.0.0.1:7411", 'ipc:///a"b\\é'])
def test_what_is_known_of_the_coordinator_comes_back(tmp_path, endpoint):
    path = tmp_path / "coordinator.toml"
    assert read_coordinator(path) is None
    known = KnownCoordinator(endpoint, new_key_pair().public)
    write_coordinator(path, known)
    assert read_coordinator(path) == known
    path.write_text(path.read_text().replace("endpoint", "end"))
    with pytest.raises(KeysError, match="airdraft join"):
        read_coordinator(path)


def test_keys_and_names_are_of_their_alphabets():
    for _ in range(200):
        pair = new_key_pair()
        assert is_key(pair.public)
        assert is_key(pair.secret)
        # No secret is shown by accident.
        assert pair.secret not in repr(pair)
    for text in ("", "a" * 39, "a" * 41, "a" * 39 + '"', "a" * 39 + "\\", "a" * 40 + "\n"):
        assert not is_key(text)
    assert all(map(is_name, ("a", "nano-1", "a.b_c", "x" * 32)))
    assert not any(map(is_name, ("", "-a", "a/b", "a b", "x" * 33, "a\n", "ä")))
