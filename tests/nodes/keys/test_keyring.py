"""Which keys a link needs, and that it does not come to be without them."""

import os
import pwd
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from airdraft.mesh.authorized import Entry
from airdraft.mesh.errors import EndpointError, InsecureEndpointError, KeysError
from airdraft.mesh.keys import ClientKeys, KnownCoordinator
from airdraft.mesh.security import new_key_pair
from airdraft.nodes.config.settings import LOOPBACK_ENDPOINT
from airdraft.nodes.keys.enrol import Invitation
from airdraft.nodes.keys.keyring import (
    Keyring,
    default_keys_dir,
    keyring_of,
    make_private,
    private_endpoint,
)
from airdraft.nodes.messages.access import ROLES

LOOPBACK, WIFI, IPC = "tcp://127.0.0.1:7411", "tcp://10.0.0.1:7411", "ipc:///tmp/x.sock"


@pytest.fixture
def ring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path)


def client_keys(ring: Keyring, endpoint: str) -> ClientKeys:
    keys = ring.client_keys(endpoint)
    assert keys is not None
    return keys


def server_key(ring: Keyring, endpoint: str) -> str:
    """The key that the coordinator at an endpoint must have."""
    return client_keys(ring, endpoint).server_key


def test_the_directory_is_the_one_asked_for_or_the_users() -> None:
    home = {"XDG_CONFIG_HOME": "/home/config"}
    assert default_keys_dir(home) == Path("/home/config/airdraft/keys")
    assert default_keys_dir(home | {"AIRDRAFT_KEYS": "/other"}) == Path("/other")
    service = home | {"STATE_DIRECTORY": "/var/lib/airdraft:/var/lib/other"}
    assert default_keys_dir(service) == Path("/var/lib/airdraft/keys")
    assert default_keys_dir(service | {"AIRDRAFT_KEYS": "/other"}) == Path("/other")


def test_without_keys_only_this_machine_is_reached(ring: Keyring) -> None:
    for endpoint in (LOOPBACK, IPC):
        assert ring.client_keys(endpoint) is None
        assert ring.server_keys(endpoint) is None
    for endpoint in (WIFI, "tcp://0.0.0.0:7411", "tcp://*:7411", "tcp://nano.local:7411"):
        with pytest.raises(InsecureEndpointError, match="airdraft join"):
            ring.client_keys(endpoint)
        with pytest.raises(InsecureEndpointError, match="airdraft keys init"):
            ring.server_keys(endpoint)


def test_with_keys_every_tcp_link_has_them(ring: Keyring) -> None:
    own, server = ring.make_own(), ring.make_coordinator_pair()
    ring.authorized().add(Entry(own.public, "here", ROLES))
    for endpoint in (LOOPBACK, WIFI):
        keys, door = client_keys(ring, endpoint), ring.server_keys(endpoint)
        assert (keys.own, keys.server_key) == (own, server.public)
        assert door.own == server
        assert door.authenticate(own.public)
        assert not door.authenticate(new_key_pair().public)
    assert ring.client_keys(IPC) is None
    assert ring.server_keys(IPC) is None


def test_a_coordinator_that_nobody_may_connect_to_says_so(ring: Keyring) -> None:
    ring.make_coordinator_pair()
    with pytest.raises(KeysError, match=r"no key may connect .*airdraft keys invite"):
        ring.server_keys(WIFI)
    invited = new_key_pair().public
    ring.authorized().invite(Entry(invited, "", ROLES, 2**40))
    door = ring.server_keys(WIFI)
    assert door.authenticate(invited)


def test_a_machine_that_joined_knows_where_to_go(ring: Keyring) -> None:
    assert ring.endpoint("") == LOOPBACK_ENDPOINT
    own, far = ring.make_own(), new_key_pair().public
    ring.keep_coordinator(KnownCoordinator(WIFI, far))
    assert ring.endpoint("") == WIFI
    assert ring.endpoint(LOOPBACK) == LOOPBACK
    keys = client_keys(ring, WIFI)
    assert (keys.own, keys.server_key) == (own, far)
    # A mesh of its own on this machine has nothing to do with the one it joined.
    assert ring.client_keys(LOOPBACK) is None
    assert server_key(ring, "tcp://10.0.0.2:7411") == far
    # A machine that is a coordinator's itself tells the two apart by the endpoint.
    here = ring.make_coordinator_pair()
    for endpoint, key in ((WIFI, far), (LOOPBACK, here.public)):
        assert server_key(ring, endpoint) == key


def test_a_mesh_without_keys_is_its_users_alone(tmp_path: Path) -> None:
    """Of several users of a machine each has its own; keys are for what they share."""
    environ = {"XDG_CONFIG_HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    private = f"ipc://{tmp_path}/airdraft/mesh.sock"
    for ring in (keyring_of(None, environ), keyring_of(str(tmp_path / "other"), environ)):
        assert ring.endpoint("") == ring.listen("") == private
        assert ring.endpoint(LOOPBACK) == ring.listen(LOOPBACK) == LOOPBACK
    # Services are several users.
    service = keyring_of(None, {**environ, "STATE_DIRECTORY": str(tmp_path)})
    assert service.endpoint("") == service.listen("") == LOOPBACK_ENDPOINT
    # With keys others may join, and the link is safe from those who may not.
    ring.make_own()
    ring.make_coordinator_pair()
    assert ring.endpoint("") == ring.listen("") == LOOPBACK_ENDPOINT
    # As a socket unit of a user does, keys or not.
    make_private(private)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(private.removeprefix("ipc://"))
        listening.listen()
        assert ring.endpoint("") == private
    assert ring.endpoint("") == LOOPBACK_ENDPOINT


@pytest.fixture
def services(tmp_path: Path) -> Callable[[str], Keyring]:
    """Keyrings of services with a state directory each, of which one cannot read another's."""
    (tmp_path / "public").mkdir()

    def ring(role: str) -> Keyring:
        return keyring_of(None, {"STATE_DIRECTORY": str(tmp_path / role)})

    return ring


def test_services_know_the_coordinator_of_their_machine_without_its_secret(
    tmp_path: Path, services: Callable[[str], Keyring]
) -> None:
    hub, target = services("coordinator"), services("target")
    own, pair = target.make_own(), hub.make_coordinator_pair()
    keys = client_keys(services("target"), LOOPBACK)
    assert (keys.own, keys.server_key) == (own, pair.public)
    assert not {"coordinator.key", "node.key"} & {f.name for f in (tmp_path / "public").iterdir()}


def test_what_is_public_can_be_read_by_others_and_changed_by_nobody(
    tmp_path: Path, services: Callable[[str], Keyring]
) -> None:
    before = os.umask(0o077)
    try:
        services("coordinator").make_coordinator_pair()
    finally:
        os.umask(before)
    path = tmp_path / "public" / "coordinator.pub"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    services("target").make_own()
    path.chmod(0o664)
    with pytest.raises(KeysError, match="other users can change"):
        services("target").client_keys(LOOPBACK)


@pytest.mark.parametrize("text", ["key = 1", 'key = "short"', "[[", 'other = "x"'])
def test_a_public_file_that_is_none_is_said(ring: Keyring, tmp_path: Path, text: str) -> None:
    ring.make_own()
    (tmp_path / "coordinator.pub").write_text(text)
    with pytest.raises(KeysError, match=r"coordinator\.pub"):
        ring.client_keys(LOOPBACK)


def test_a_public_file_follows_the_secret_one(tmp_path: Path) -> None:
    ring, other = Keyring(tmp_path / "a"), Keyring(tmp_path / "b")
    pair, restored = ring.make_coordinator_pair(), other.make_coordinator_pair()
    (tmp_path / "b" / "coordinator.key").replace(tmp_path / "a" / "coordinator.key")
    ring.make_own()
    assert server_key(ring, LOOPBACK) == pair.public
    ring.publish()
    assert server_key(ring, LOOPBACK) == restored.public
    public = ring.coordinator_public()
    # So it does where it is broken, or might have been changed by others.
    (tmp_path / "a" / "coordinator.pub").write_text("[[")
    (tmp_path / "a" / "coordinator.pub").chmod(0o666)
    ring.publish()
    assert ring.coordinator_public() == public
    # A machine of an earlier version has none yet.
    (tmp_path / "a" / "coordinator.pub").unlink()
    assert server_key(ring, LOOPBACK) == restored.public
    (tmp_path / "a" / "coordinator.key").unlink()
    ring.publish()
    assert ring.coordinator_public() is None


def test_the_next_pair_is_kept_before_it_is_used(ring: Keyring) -> None:
    own, pair = ring.make_own(), ring.make_next()
    # An attempt that failed half-way goes on with the same one.
    assert ring.make_next() == pair
    assert ring.own() == own
    ring.adopt_next()
    assert ring.own() == pair
    assert ring.make_next() != pair


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
        lambda t: Invitation(None, new_key_pair().public, new_key_pair()).token(),  # type: ignore[arg-type]
        lambda t: "airdraft1-" + "W1tb" * 500,
    ],
)
def test_a_torn_token_is_one_line_that_shows_none_of_it(change: object) -> None:
    token = Invitation(WIFI, new_key_pair().public, new_key_pair()).token()
    text = change(token)  # type: ignore[operator]
    with pytest.raises(KeysError, match="this is not an invitation") as caught:
        Invitation.from_token(text)
    assert "\n" not in str(caught.value)
    assert not text or text not in str(caught.value)


def test_credentials_of_a_service_go_before_its_directory(tmp_path: Path) -> None:
    state, given = tmp_path / "state", tmp_path / "credentials"
    Keyring(state).make_own()
    pair = Keyring(given).make_own()
    path = given / "node.key"
    # As systemd makes it for a service with a user of its own: an ACL, shown as the group's mode.
    path.chmod(0o440)
    ring = keyring_of(None, {"STATE_DIRECTORY": str(tmp_path), "CREDENTIALS_DIRECTORY": str(given)})
    assert ring.directory == tmp_path / "keys"
    ring = Keyring(state, given)
    assert ring.own() == pair
    assert ring.make_own() == pair
    with pytest.raises(KeysError, match=r"node\.key is a credential .* its unit loads it from"):
        ring.make_next()
    ring.make_coordinator_pair()
    assert (state / "coordinator.key").exists()
    Keyring(given).make_coordinator_pair()
    with pytest.raises(KeysError, match=r"coordinator\.key is a credential"):
        ring.make_coordinator_pair()
    path.chmod(0o444)
    with pytest.raises(KeysError, match="other users can read"):
        ring.own()


# -- the private socket of a user ------------------------------------------------------------------


def test_the_socket_of_a_user_is_in_the_runtime_directory_or_else_in_the_cache() -> None:
    home = {"HOME": "/home/a", "XDG_CACHE_HOME": "/home/a/cache"}
    assert private_endpoint({**home, "XDG_RUNTIME_DIR": "/run/user/7"}) == (
        "ipc:///run/user/7/airdraft/mesh.sock"
    )
    for runtime in ({}, {"XDG_RUNTIME_DIR": ""}, {"XDG_RUNTIME_DIR": "relative"}):
        assert private_endpoint({**home, **runtime}) == (
            "ipc:///home/a/cache/airdraft/run/mesh.sock"
        )
    assert private_endpoint({"STATE_DIRECTORY": "/var/lib/x", "XDG_RUNTIME_DIR": "/run/x"}) == ""


def test_only_its_user_may_enter_the_directory_of_the_socket(tmp_path: Path) -> None:
    run = tmp_path / "a" / "run"
    for _ in range(2):
        make_private(f"ipc://{run}/mesh.sock")
        assert run.stat().st_mode & 0o777 == 0o700
    run.chmod(0o750)
    # Nor is a link to elsewhere entered, or anything made where no directory can be.
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").touch()
    for name, says in (
        ("a/run", r"other users may enter .*mode 700"),
        ("link", "other users may enter"),
        ("file/run", "--listen"),
    ):
        with pytest.raises(EndpointError, match=says):
            make_private(f"ipc://{tmp_path}/{name}/mesh.sock")


@pytest.mark.parametrize("find", [default_keys_dir, private_endpoint])
def test_a_user_without_a_home_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch, find: Callable[[dict[str, str]], object]
) -> None:
    # A container may run as a user that its list of users lacks.
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    with pytest.raises(KeysError, match="no home folder: set the environment variable HOME"):
        find({})
