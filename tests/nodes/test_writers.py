"""Whatever airdraft writes down: where it cannot, one line says so and what was there stays."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from airdraft.mesh.authorized import Entry
from airdraft.mesh.errors import KeysError
from airdraft.mesh.keys import KnownCoordinator
from airdraft.mesh.security import new_key_pair
from airdraft.nodes.cli import keys as commands
from airdraft.nodes.cli.main import cli
from airdraft.nodes.gateway.apikeys import ApiKey, ApiKeys, digest
from airdraft.nodes.keys.enrol import Invitation
from airdraft.nodes.keys.keyring import Keyring

Writer = Callable[[Keyring], object]
ENDPOINT = "tcp://10.0.0.1:7411"


CLIENT = frozenset({"client"})


def new_name() -> str:
    return f"n{time.monotonic_ns()}"


WRITERS: dict[str, Writer] = {
    "node": lambda ring: ring.authorized().add(Entry(new_key_pair().public, new_name(), CLIENT)),
    "invitation": lambda ring: ring.authorized().invite(
        Entry(new_key_pair().public, "", CLIENT, int(time.time()) + 60)
    ),
    "own": lambda ring: ring.make_own(),
    "coordinator": lambda ring: ring.make_coordinator_pair(),
    "next": lambda ring: ring.make_next(),
    "known": lambda ring: ring.keep_coordinator(KnownCoordinator(ENDPOINT, new_key_pair().public)),
    "room": lambda ring: ring.check_room(),
    "api key": lambda ring: ApiKeys(ring.directory / "apikeys.toml").add(
        ApiKey(name=new_name(), sha256=digest("key"))
    ),
}


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and "lock" not in path.name)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def break_disk(monkeypatch: pytest.MonkeyPatch, num_syncs: int = 0) -> None:
    """Let so many files and directories be synced, and then no more."""
    real, left = os.fsync, [None] * num_syncs

    def fsync(descriptor: int) -> None:
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left.pop()
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("name", WRITERS)
def test_where_it_cannot_be_written_the_one_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write, ring = WRITERS[name], Keyring(tmp_path)
    if name not in ("next", "own"):
        write(ring)
    before = contents(tmp_path)
    with monkeypatch.context() as broken:
        break_disk(broken)
        with pytest.raises(KeysError, match="No space left") as raised:
            write(ring)
    assert "\n" not in str(raised.value)
    assert contents(tmp_path) == before
    # And with room again it is done, by whoever tries next.
    write(ring)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".node")]


def test_init_can_be_done_again_where_there_was_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = ["keys", "init", "--keys", str(tmp_path), "--name", "hub"]
    with monkeypatch.context() as broken:
        # Two files, and the directory after each.
        break_disk(broken, 4)
        with pytest.raises(KeysError, match=r"coordinator\.key cannot be written"):
            CliRunner().invoke(cli, init, catch_exceptions=False)
    assert Keyring(tmp_path).coordinator_pair() is None
    CliRunner().invoke(cli, init, catch_exceptions=False)
    ring = Keyring(tmp_path)
    assert ring.coordinator_pair() is not None
    assert [entry.name for entry in ring.authorized().nodes().values()] == ["hub"]


def test_an_invitation_is_not_used_up_where_the_rest_could_not_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Keyring(tmp_path).make_own()
    token = Invitation(ENDPOINT, new_key_pair().public, new_key_pair()).token()
    asked: list[object] = []
    monkeypatch.setattr(commands, "run_to_end", asked.append)
    break_disk(monkeypatch)
    with pytest.raises(KeysError, match="No space left"):
        CliRunner().invoke(cli, ["join", token, "--keys", str(tmp_path)], catch_exceptions=False)
    assert asked == []
