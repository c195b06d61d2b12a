"""Which keys a link needs, and that it does not come to be without them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.authorized import Entry
from mesh.errors import InsecureEndpointError, KeysError
from mesh.keys import KnownCoordinator
from mesh.security import new_key_pair
from nodes.config import DEFAULT_ENDPOINT
from nodes.coordinator.access import ROLES
from nodes.enrol import Invitation
from nodes.keyring import Keyring, default_keys_dir

LOOPBACK, WIFI, IPC = "tcp://127.0.0.1:7411", "tcp://10.0.0.1:7411", "ipc:///tmp/x.sock"


def test_the_directory_is_the_one_asked_for_or_the_users(tmp_path: Path) -> None:
    home = {"XDG_CONFIG_HOME": "/home/config"}
    assert default_keys_dir(home) == Path("/home/config/airdraft/keys")
    assert default_keys_dir(home | {"AIRDRAFT_KEYS": "/other"}) == Path("/other")
    credentials = home | {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    # systemd gives services directories that hold no keys of ours, too.
    assert default_keys_dir(credentials) == Path("/home/config/airdraft/keys")
    (tmp_path / "node.key").write_text("")
    assert default_keys_dir(credentials) == tmp_path


def test_without_keys_only_this_machine_is_reached(tmp_path: Path) -> None:
    ring = Keyring(tmp_path)
    for endpoint in (LOOPBACK, IPC):
        assert ring.client_keys(endpoint) is None
        assert ring.server_keys(endpoint) is None
    for endpoint in (WIFI, "tcp://0.0.0.0:7411", "tcp://*:7411", "tcp://nano.local:7411"):
        with pytest.raises(InsecureEndpointError, match="airdraft join"):
            ring.client_keys(endpoint)
        with pytest.raises(InsecureEndpointError, match="airdraft keys init"):
            ring.server_keys(endpoint)


def test_with_keys_every_tcp_link_has_them(tmp_path: Path) -> None:
    ring = Keyring(tmp_path)
    own, server = ring.make_own(), ring.make_coordinator_pair()
    ring.authorized().add(Entry(own.public, "here", ROLES))
    for endpoint in (LOOPBACK, WIFI):
        keys, door = ring.client_keys(endpoint), ring.server_keys(endpoint)
        assert keys is not None
        assert (keys.own, keys.server_key) == (own, server.public)
        assert door is not None
        assert door.own == server
        assert door.authenticate(own.public)
        assert not door.authenticate(new_key_pair().public)
    assert ring.client_keys(IPC) is None
    assert ring.server_keys(IPC) is None


def test_a_coordinator_that_nobody_may_connect_to_says_so(tmp_path: Path) -> None:
    ring = Keyring(tmp_path)
    ring.make_coordinator_pair()
    with pytest.raises(KeysError, match=r"nobody may connect .*airdraft keys invite"):
        ring.server_keys(WIFI)
    invited = new_key_pair().public
    ring.authorized().invite(Entry(invited, "", ROLES, 2**40))
    door = ring.server_keys(WIFI)
    assert door is not None
    assert door.authenticate(invited)


def test_a_machine_that_joined_knows_where_to_go(tmp_path: Path) -> None:
    ring = Keyring(tmp_path)
    assert ring.endpoint("") == DEFAULT_ENDPOINT
    own, far = ring.make_own(), new_key_pair().public
    ring.keep_coordinator(KnownCoordinator(WIFI, far))
    assert ring.endpoint("") == WIFI
    assert ring.endpoint(LOOPBACK) == LOOPBACK
    keys = ring.client_keys(WIFI)
    assert keys is not None
    assert (keys.own, keys.server_key) == (own, far)
    # A mesh of its own on this machine has nothing to do with the one it joined.
    assert ring.client_keys(LOOPBACK) is None
    other = ring.client_keys("tcp://10.0.0.2:7411")
    assert other is not None
    assert other.server_key == far
    # A machine that is a coordinator's itself tells the two apart by the endpoint.
    here = ring.make_coordinator_pair()
    for endpoint, key in ((WIFI, far), (LOOPBACK, here.public)):
        keys = ring.client_keys(endpoint)
        assert keys is not None
        assert keys.server_key == key


def test_the_next_pair_is_kept_before_it_is_used(tmp_path: Path) -> None:
    ring = Keyring(tmp_path)
    own, pair = ring.make_own(), ring.make_next()
    # An attempt that failed half-way goes on with the same one.
    assert ring.make_next() == pair
    assert ring.own() == own
    ring.adopt_next(pair)
    assert ring.own() == pair
    assert ring.make_next() != pair


def test_a_secret_that_others_can_read_is_used_for_nothing(tmp_path: Path) -> None:
    ring = Keyring(tmp_path)
    ring.make_own()
    ring.make_coordinator_pair()
    (tmp_path / "node.key").chmod(0o644)
    with pytest.raises(KeysError, match="can be read by others"):
        ring.client_keys(LOOPBACK)
    (tmp_path / "coordinator.key").chmod(0o644)
    with pytest.raises(KeysError, match="can be read by others"):
        ring.server_keys(LOOPBACK)


def test_an_invitation_is_a_line_and_comes_back_whole() -> None:
    invitation = Invitation(WIFI, new_key_pair().public, new_key_pair())
    token = invitation.token()
    assert token.startswith("airdraft1-")
    assert len(token.split()) == 1
    assert Invitation.from_token(f"  {token}\n") == invitation
    assert invitation.pair.secret not in repr(invitation)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: "",
        lambda t: "x",
        lambda t: t[:-20],
        lambda t: t.removeprefix("airdraft1-"),
        lambda t: t[:20] + "!" + t[20:],
        lambda t: t + "A" * 4000,
        lambda t: "airdraft1-bnVsbA",
        lambda t: "airdraft1-WzEsMiwzLDRd",
        lambda t: Invitation("tcp://*:0", new_key_pair().public, new_key_pair()).token(),
    ],
)
def test_a_torn_token_is_one_line_that_shows_none_of_it(change: object) -> None:
    token = Invitation(WIFI, new_key_pair().public, new_key_pair()).token()
    text = change(token)  # type: ignore[operator]
    with pytest.raises(KeysError, match="that is no invitation") as caught:
        Invitation.from_token(text)
    assert "\n" not in str(caught.value)
    assert not text or text not in str(caught.value)
