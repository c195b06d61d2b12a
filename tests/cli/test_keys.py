"""Keys from the command line: a mesh by invitation, wrong input, no secret where others look."""

import contextlib
import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from airdraft.mesh.keys import KeyPair, read_key_pair
from tests.cli.commands import Commands, error_line, stopped, wait_until


@contextlib.contextmanager
def coordinator(commands: Commands, keys: Path) -> Iterator[str]:
    """A running one; its endpoint."""
    listen = ("coordinator", "--listen", "tcp://127.0.0.1:0", "--keys", str(keys), "-v")
    with commands.listening(*listen) as (process, endpoint):
        yield endpoint
        logged = stopped(process)
        assert "joined with" in logged or "authorized" in logged
        assert not any(pair.secret in logged for pair in pairs(keys))


def join(commands: Commands, here: Path, there: Path, endpoint: str, *roles: str) -> str:
    """Invite a machine named nano for these roles, and join as it; the token."""
    asked = [word for role in roles for word in ("--role", role)]
    invite = ("keys", "invite", *asked, "--endpoint", endpoint, "--keys", str(here))
    token = commands.printed(*invite)
    said = commands.printed("join", token, "--name", "nano", "--keys", str(there))
    assert said.startswith(f"joined {endpoint} as nano, for ")
    return token


@pytest.fixture
def here(commands: Commands, tmp_path: Path) -> Path:
    """The keys of a coordinator's machine."""
    commands.printed("keys", "init", "--keys", str(tmp_path / "here"), "--name", "hub")
    return tmp_path / "here"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


def test_a_mesh_by_invitation(commands: Commands, here: Path, there: Path) -> None:
    for name in ("node.key", "coordinator.key"):
        assert stat.S_IMODE((here / name).stat().st_mode) == 0o600
    with coordinator(commands, here) as endpoint:
        token = join(commands, here, there, endpoint, "draft", "client")
        assert not (there / "coordinator.key").exists()
        # A second machine cannot use it.
        done = commands.run("join", token, "--keys", str(there.with_name("third")))
        assert done.returncode == 1
        assert "no answer from" in error_line(done)
        target = ("target", "--model", "toy:1", "--keys", str(here), "--connect", endpoint)
        # The endpoint is known from joining.
        draft = ("draft", "--model", "toy:1", "--keys", str(there))
        with commands.started(*target), commands.started(*draft):
            ask = ("generate", "x", "--raw", "--max-tokens", "40", "--gamma", "3")
            asked = (*ask, "--json", "--seed", "1", "--connect", endpoint, "--keys")
            wait_until(lambda: commands.run(*asked, str(here)).returncode == 0)
            answers = [json.loads(commands.printed(*asked, str(keys))) for keys in (here, there)]
            assert answers[0]["token_ids"] == answers[1]["token_ids"]
            secrets = [pair.secret for ring in (here, there) for pair in pairs(ring)] + [token]
            assert len(secrets) == 4
            seen = list(everything_others_see(commands))
            assert len(seen) == 2 * 3
            assert not any(secret in text for secret in secrets for text in seen)
            commands.printed("keys", "revoke", "nano", "--keys", str(here))
            done = commands.run(*ask, "--keys", str(there))
            assert done.returncode == 69
            assert "authorize this machine's key" in error_line(done)
            listed = ("keys", "list", "--keys", str(here))
            wait_until(lambda: "nano" not in commands.printed(*listed))


def pairs(ring: Path) -> list[KeyPair]:
    found = [read_key_pair(ring / name) for name in ("node.key", "coordinator.key")]
    return [pair for pair in found if pair is not None]


def everything_others_see(commands: Commands) -> Iterator[str]:
    for pid in commands.alive("coordinator", "target", "draft"):
        for name in ("cmdline", "environ"):
            yield Path(f"/proc/{pid}/{name}").read_text(errors="replace")


def test_a_client_may_neither_observe_nor_serve_until_it_is_invited_to(
    commands: Commands, here: Path, there: Path
) -> None:
    raw = str(there.with_name("raw"))
    observing = (("top", "--json"), ("trace", "--seconds", "0.1", "--raw", raw))
    serving = ("gateway", "--listen", "127.0.0.1:0")
    with coordinator(commands, here) as endpoint:
        join(commands, here, there, endpoint, "client")
        for role, command in (*(("admin", each) for each in observing), ("gateway", serving)):
            done = commands.run(*command, "--keys", str(there))
            assert done.returncode == 77
            (line,) = done.stderr.splitlines()
            assert f"the key of nano lacks the role '{role}' (it has client)" in line
            assert f"`airdraft keys invite --role {role} --endpoint ...`" in line
        join(commands, here, there, endpoint, "admin")
        for command in observing:
            assert commands.run(*command, "--keys", str(there)).returncode == 0


def test_services_of_one_machine_have_a_key_each(commands: Commands, tmp_path: Path) -> None:
    """As docs/guides/deploy.md has it, without the users."""
    (tmp_path / "public").mkdir()
    hub, target = (
        {"AIRDRAFT_KEYS": "", "STATE_DIRECTORY": str(tmp_path / role)}
        for role in ("coordinator", "target")
    )
    commands.run("keys", "init", "--name", "hub", **hub)
    public = commands.run("keys", "show-public", **target).stdout
    add = ("keys", "add", "-", "--name", "hub-target", "--role", "target")
    assert commands.run(*add, given=public, **hub).returncode == 0
    with commands.listening("coordinator", "--listen", "tcp://127.0.0.1:0", **hub) as (_, endpoint):
        there = ("--connect", endpoint)
        with commands.started("target", "--model", "toy:1", *there, **target):
            listed = ("nodes", "list", *there)
            wait_until(lambda: "hub-target/target" in commands.run(*listed, **hub).stdout)
            # It is a target and nothing else.
            done = commands.run(*listed, **target)
            assert done.returncode == 77
            assert "lacks the role 'client' (it has target)" in error_line(done)


# A key may begin like an option.
@pytest.mark.parametrize("start", ["", "-", "--", "-h"])
def test_keys_change_hands_by_hand_too(commands: Commands, here: Path, start: str) -> None:
    key = start + "ne@$wvo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hIDabc"[: 40 - len(start)]
    ring = ("--keys", str(here))
    add = ("keys", "add", key, "--role", "draft", *ring, "--name")
    assert commands.printed(*add, "nano") == "nano is authorized as draft"
    assert f"nano  draft  {key}" in commands.printed("keys", "list", *ring)
    done = commands.run(*add, "other")
    assert (done.returncode, "already authorized as nano" in error_line(done)) == (78, True)
    assert commands.printed("keys", "revoke", key, *ring).startswith("nano is no longer")
    assert "nano" not in commands.printed("keys", "list", *ring)


def test_a_machine_changes_its_key(commands: Commands, here: Path) -> None:
    with coordinator(commands, here) as endpoint:
        before = read_key_pair(here / "node.key")
        commands.printed("keys", "rotate", "--keys", str(here), "--connect", endpoint)
        after = read_key_pair(here / "node.key")
        assert before is not None
        assert after is not None
        listed = commands.printed("keys", "list", "--keys", str(here))
        assert (after.public in listed, before.public in listed) == (True, False)


def test_after_another_key_of_the_coordinator_machines_join_again_with_their_own(
    commands: Commands, here: Path, there: Path
) -> None:
    with coordinator(commands, here) as endpoint:
        join(commands, here, there, endpoint, "client")
    listed = commands.printed("keys", "list", "--keys", str(here))
    for name in ("coordinator.key", "coordinator.pub"):
        (here / name).unlink()
    commands.printed("keys", "init", "--keys", str(here))
    nodes = ("nodes", "list", "--keys", str(there))
    with coordinator(commands, here) as endpoint:
        done = commands.run(*nodes, "--connect", endpoint, AIRDRAFT_JOIN_TIMEOUT_S="1")
        assert (done.returncode, "no coordinator answered" in error_line(done)) == (69, True)
        join(commands, here, there, endpoint, "client")
        assert commands.run(*nodes).returncode == 0
    assert commands.printed("keys", "list", "--keys", str(here)) == listed
