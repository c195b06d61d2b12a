"""Files of authorized keys: read anew when they change, changed under a lock, strict."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from airdraft.mesh import private_rows
from airdraft.mesh.authorized import AuthorizedNodes, Entry
from airdraft.mesh.errors import KeysError
from airdraft.mesh.keys import AUTHORIZED_FILE, INVITATIONS_FILE
from airdraft.mesh.security import new_key_pair

ROLES = frozenset({"target", "draft", "client"})
DRAFT = frozenset({"draft"})


def key() -> str:
    return new_key_pair().public


def invite(store, name="", roles=DRAFT) -> str:
    """The key of an invitation, which can be used once."""
    invited = key()
    store.invite(Entry(invited, name, roles, 1060))
    return invited


@pytest.fixture
def clock():
    return SimpleNamespace(now=1000.0)


@pytest.fixture
def store(tmp_path, clock):
    return AuthorizedNodes(tmp_path, ROLES, lambda: clock.now)


def test_no_key_and_no_name_is_there_twice(store):
    first = Entry(key(), "a", DRAFT)
    store.add(first)
    with pytest.raises(KeysError, match="already authorized as a"):
        store.add(Entry(first.key, "b", DRAFT))
    with pytest.raises(KeysError, match="name a is taken"):
        store.add(Entry(key(), "a", DRAFT))
    assert list(store.nodes().values()) == [first]


def test_a_new_key_takes_the_place_of_the_old_one(store):
    old, new, other = key(), key(), Entry(key(), "b", ROLES)
    store.add(Entry(old, "a", DRAFT))
    store.add(other)
    assert store.replace(old, new) == Entry(new, "a", DRAFT)
    assert store.nodes() == {new: Entry(new, "a", DRAFT), other.key: other}
    for wrong_old, wrong_new in ((old, key()), (new, other.key), (new, "short")):
        with pytest.raises(KeysError):
            store.replace(wrong_old, wrong_new)
    assert set(store.nodes()) == {new, other.key}


def test_an_invitation_is_used_once_and_until_it_expires(store, clock):
    invited, mine = invite(store), key()
    assert set(store.invitations()) == {invited}
    assert store.nodes() == {}
    assert store.enrol(invited, mine, "nano") == Entry(mine, "nano", DRAFT)
    assert set(store.nodes()) == {mine}
    assert store.invitations() == {}
    with pytest.raises(KeysError, match="used or has expired"):
        store.enrol(invited, key(), "other")
    late = invite(store, "given")
    clock.now = 1060.0
    assert store.invitations() == {}
    with pytest.raises(KeysError, match="used or has expired"):
        store.enrol(late, key(), "other")
    assert set(store.nodes()) == {mine}


def test_an_expired_invitation_stays_so_when_the_clock_is_set_back(store, clock, tmp_path):
    expired = invite(store)
    clock.now = 1030.0
    open_key = key()
    store.invite(Entry(open_key, "", DRAFT, 1090))
    clock.now = 1060.0
    store.drop_expired()
    clock.now = 1030.0
    # Another process sees the same.
    for each in (store, AuthorizedNodes(tmp_path, ROLES, lambda: clock.now)):
        assert set(each.invitations()) == {open_key}
    with pytest.raises(KeysError, match="used or has expired"):
        store.enrol(expired, key(), "x")


def test_without_expired_invitations_nothing_is_written(store, tmp_path):
    invite(store)
    before = (tmp_path / INVITATIONS_FILE).stat()
    store.drop_expired()
    assert (tmp_path / INVITATIONS_FILE).stat() == before


def test_an_invitation_is_not_valid_before_it_was_issued(store, clock):
    invited = invite(store)
    # Time servers set clocks back by seconds.
    clock.now = 990.0
    assert set(store.invitations()) == {invited}
    clock.now = 0.0
    assert store.invitations() == {}
    with pytest.raises(KeysError, match="used or has expired"):
        store.enrol(invited, key(), "x")
    # Another one that is issued meanwhile does not remove it, and it can be withdrawn.
    invite(store)
    clock.now = 1000.0
    assert invited in store.invitations()
    clock.now = 0.0
    assert [entry.key for entry in store.revoke(invited)] == [invited]


def test_machines_of_one_host_name_are_numbered(store):
    hosts = ("ubuntu", "ubuntu", "ubuntu", "u" * 32, "u" * 32)
    names = [store.enrol(invite(store), key(), host).name for host in hosts]
    assert names == ["ubuntu", "ubuntu-2", "ubuntu-3", "u" * 32, "u" * 28 + "-2"]
    # Who invites may choose the name.
    assert store.enrol(invite(store, "given"), key(), "ubuntu").name == "given"
    with pytest.raises(KeysError, match="name given is taken"):
        store.invite(Entry(key(), "given", DRAFT, 1060))


def test_a_node_that_was_enrolled_without_hearing_of_it_can_use_another_invitation(store):
    mine = key()
    for roles in (DRAFT, frozenset({"client"})):
        entry = store.enrol(invite(store, roles=roles), mine, "nano")
    assert store.nodes() == {mine: Entry(mine, "nano", frozenset({"draft", "client"}))}
    assert entry == store.nodes()[mine]


def test_an_invitation_that_was_used_is_used_up_though_the_rest_failed(store, monkeypatch):
    invited = invite(store)
    write = private_rows.write_private

    def broken(path, text):
        if path.name == AUTHORIZED_FILE:
            raise KeysError("disk full")
        write(path, text)

    monkeypatch.setattr(private_rows, "write_private", broken)
    with pytest.raises(KeysError, match="disk full"):
        store.enrol(invited, key(), "nano")
    monkeypatch.undo()
    with pytest.raises(KeysError, match="used or has expired"):
        store.enrol(invited, key(), "other")
    assert store.nodes() == {}


def test_a_second_invitation_of_a_name_makes_the_first_one_void(store):
    lost, other, again = invite(store, "nano"), invite(store), key()
    assert [entry.key for entry in store.invite(Entry(again, "nano", DRAFT, 1060))] == [lost]
    assert set(store.invitations()) == {other, again}
    with pytest.raises(KeysError, match="used or has expired"):
        store.enrol(lost, key(), "x")
    assert store.enrol(again, key(), "x").name == "nano"


def test_an_open_invitation_can_be_withdrawn_and_a_bad_name_leaves_it_open(store):
    invited, named = invite(store), invite(store, "nano")
    for name in ("", "a/b", "x" * 33, "a\nb", 'a"b'):
        with pytest.raises(KeysError, match="name"):
            store.enrol(invited, key(), name)
    assert set(store.invitations()) == {invited, named}
    assert [entry.key for entry in store.revoke(invited)] == [invited]
    assert [entry.key for entry in store.revoke("nano")] == [named]
    assert store.invitations() == store.nodes() == {}
    with pytest.raises(KeysError, match="no authorized node"):
        store.revoke("nano")


GOOD = f'[[node]]\nkey = "{"a" * 40}"\nname = "a"\nroles = ["draft"]\n'


@pytest.mark.parametrize(
    "content",
    [
        GOOD.replace('"draft"', ""),
        GOOD.replace('"draft"', '"draft", "boss"'),
        GOOD.replace("a" * 40, "a" * 39),
        GOOD.replace('"a"', '"a b"'),
        # A node never expires, whoever believes that it does.
        GOOD + "expires_unix = 9\n",
        GOOD + GOOD.replace('"a"', '"b"'),
        GOOD + GOOD.replace("a" * 40, "b" * 40),
    ],
)
def test_a_file_that_is_wrong_authorizes_nobody_and_is_left_as_it_is(store, tmp_path, content):
    path = tmp_path / AUTHORIZED_FILE
    path.write_text(content)
    path.chmod(0o644)
    with pytest.raises(KeysError, match=AUTHORIZED_FILE):
        store.nodes()
    with pytest.raises(KeysError):
        store.add(Entry(key(), "c", DRAFT))
    assert path.read_text() == content
    path.write_text(GOOD)
    assert [entry.name for entry in store.nodes().values()] == ["a"]
    path.chmod(0o664)
    with pytest.raises(KeysError, match="other users"):
        store.nodes()


_ADD_MANY = """
import sys
from pathlib import Path
from airdraft.mesh.authorized import AuthorizedNodes, Entry
from airdraft.mesh.security import new_key_pair
store = AuthorizedNodes(Path(sys.argv[1]), frozenset({"draft"}))
for number in range(25):
    store.add(Entry(new_key_pair().public, f"{sys.argv[2]}{number}", frozenset({"draft"})))
"""


def test_two_processes_that_change_the_file_lose_nothing(tmp_path):
    command = [sys.executable, "-c", _ADD_MANY, str(tmp_path)]
    for process in [subprocess.Popen([*command, name]) for name in ("a", "b")]:
        assert process.wait(timeout=60) == 0
    assert len(AuthorizedNodes(tmp_path, ROLES).nodes()) == 50
    assert sorted(os.listdir(tmp_path)) == [".lock", AUTHORIZED_FILE]
