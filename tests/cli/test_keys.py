"""Keys from the command line: a mesh by invitation, wrong input, no secret where others look."""

from __future__ import annotations

import contextlib
import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.keys import KeyPair, read_key_pair
from tests.cli.commands import LIMIT_S, Commands, wait_until
from tests.cli.test_run import error_line


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(tmp_path)
    yield commands
    commands.kill_all()


def printed(commands: Commands, *arguments: str) -> str:
    done = commands.run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@contextlib.contextmanager
def coordinator(commands: Commands, keys: Path) -> Iterator[str]:
    """A running one; its endpoint."""
    arguments = ("--listen", "tcp://127.0.0.1:0", "--keys", str(keys), "-v")
    with commands.started("coordinator", *arguments) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.terminate()
        _, logged = process.communicate(timeout=LIMIT_S)
        assert "joined with" in logged or "authorized" in logged
        for pair in pairs(keys):
            assert pair.secret not in logged


def test_a_mesh_by_invitation(commands: Commands, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    printed(commands, "keys", "init", "--keys", str(here), "--name", "hub")
    for name in ("node.key", "coordinator.key"):
        assert stat.S_IMODE((here / name).stat().st_mode) == 0o600
    with coordinator(commands, here) as endpoint:
        invite = ("keys", "invite", "--role", "draft", "--role", "client")
        token = printed(commands, *invite, "--endpoint", endpoint, "--keys", str(here))
        said = printed(commands, "join", token, "--name", "nano", "--keys", str(there))
        assert said == f"joined {endpoint} as nano, for client, draft"
        assert not (there / "coordinator.key").exists()
        # A second machine cannot use it.
        done = commands.run("join", token, "--keys", str(tmp_path / "third"))
        assert done.returncode == 1
        assert "no answer from" in error_line(done)
        target = ("target", "--model", "toy:1", "--keys", str(here), "--connect", endpoint)
        # The endpoint is known from joining.
        draft = ("draft", "--model", "toy:1", "--keys", str(there))
        with commands.started(*target), commands.started(*draft):
            ask = ("generate", "--prompt", "x", "--raw", "--max-tokens", "40", "--gamma", "3")
            asked = (*ask, "--keys", str(here), "--connect", endpoint)
            wait_until(lambda: commands.run(*asked).returncode == 0)
            answers = [
                printed_json(commands, *ask, "--keys", str(keys), "--connect", endpoint)
                for keys in (here, there)
            ]
            assert answers[0] == answers[1]
            secrets = [pair.secret for ring in (here, there) for pair in pairs(ring)] + [token]
            assert len(secrets) == 4
            seen = list(everything_others_see(commands))
            assert len(seen) == 2 * 3
            assert not any(secret in text for secret in secrets for text in seen)
            printed(commands, "keys", "revoke", "nano", "--keys", str(here))
            done = commands.run(*ask, "--keys", str(there))
            assert done.returncode == 69
            assert "authorize this machine's key" in error_line(done)
            wait_until(lambda: "nano" not in printed(commands, "keys", "list", "--keys", str(here)))


def printed_json(commands: Commands, *arguments: str) -> object:
    done = commands.run(*arguments, "--json", "--seed", "1")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["token_ids"]


def pairs(ring: Path) -> list[KeyPair]:
    found = [read_key_pair(ring / name) for name in ("node.key", "coordinator.key")]
    return [pair for pair in found if pair is not None]


def everything_others_see(commands: Commands) -> Iterator[str]:
    for pid in commands.alive("coordinator", "target", "draft"):
        for name in ("cmdline", "environ"):
            yield Path(f"/proc/{pid}/{name}").read_text(errors="replace")


def test_a_token_may_come_by_standard_input(commands: Commands, tmp_path: Path) -> None:
    done = commands.run("join", "-", "--keys", str(tmp_path / "there"))
    assert done.returncode == 78
    assert "this is not an invitation" in error_line(done)
    assert not (tmp_path / "there").exists()


# A dozen commands, each a process.
@pytest.mark.timeout(240)
def test_a_client_may_not_observe_the_mesh_until_it_is_invited_as_admin(
    commands: Commands, tmp_path: Path
) -> None:
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    observing = (("top", "--json"), ("trace", "--seconds", "0.1", "--raw", str(tmp_path / "raw")))
    printed(commands, "keys", "init", "--keys", here, "--name", "hub")
    with coordinator(commands, tmp_path / "here") as endpoint:

        def joined(role: str) -> None:
            invite = ("keys", "invite", "--role", role, "--endpoint", endpoint, "--keys", here)
            token = printed(commands, *invite)
            printed(commands, "join", token, "--name", "nano", "--keys", there)

        joined("client")
        for command in observing:
            done = commands.run(*command, "--keys", there)
            assert done.returncode == 77
            line = error_line(done)
            assert "the key of nano lacks the role 'admin' (it has client)" in line
            assert "`airdraft keys invite --role admin --endpoint ...`" in line
        joined("admin")
        for command in observing:
            assert commands.run(*command, "--keys", there).returncode == 0


# A dozen commands, each a process.
@pytest.mark.timeout(240)
def test_services_of_one_machine_have_a_key_each(commands: Commands, tmp_path: Path) -> None:
    """As docs/guides/deploy.md has it, without the users."""
    (tmp_path / "public").mkdir()

    def state(role: str) -> dict[str, str]:
        return {"AIRDRAFT_KEYS": "", "STATE_DIRECTORY": str(tmp_path / role)}

    def run(role: str, *arguments: str, given: str = "") -> str:
        done = commands.run(*arguments, given=given, **state(role))
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("coordinator", "keys", "init", "--name", "hub")
    add = ("keys", "add", "-", "--name", "hub-target", "--role", "target")
    run("coordinator", *add, given=run("target", "keys", "show-public"))
    listen = ("--listen", "tcp://127.0.0.1:0")
    with commands.started("coordinator", *listen, **state("coordinator")) as hub:
        assert hub.stdout is not None
        endpoint = ("--connect", hub.stdout.readline().split()[-1])
        with commands.started("target", "--model", "toy:1", *endpoint, **state("target")):
            listed = ("nodes", "list", *endpoint)
            wait_until(lambda: "hub-target/target" in run("coordinator", *listed))
            # It is a target and nothing else.
            done = commands.run(*listed, **state("target"))
            assert done.returncode == 77
            assert "lacks the role 'client' (it has target)" in error_line(done)
    nothing = commands.run(*add, given="coordinator x", **state("coordinator"))
    assert nothing.returncode == 78
    assert "40 characters of Z85" in error_line(nothing)


def test_keys_change_hands_by_hand_too(commands: Commands, tmp_path: Path) -> None:
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    printed(commands, "keys", "init", "--keys", here, "--name", "hub")
    _, key = printed(commands, "keys", "show-public", "--keys", there).split()
    add = ("keys", "add", key, "--role", "draft", "--keys", here)
    assert printed(commands, *add, "--name", "nano") == "nano is authorized as draft"
    assert f"nano  draft  {key}" in printed(commands, "keys", "list", "--keys", here)
    done = commands.run(*add, "--name", "other")
    assert (done.returncode, "already authorized as nano" in error_line(done)) == (78, True)
    assert printed(commands, "keys", "revoke", key, "--keys", here).startswith("nano is no longer")


def test_a_machine_changes_its_key(commands: Commands, tmp_path: Path) -> None:
    here = tmp_path / "here"
    printed(commands, "keys", "init", "--keys", str(here), "--name", "hub")
    before = read_key_pair(here / "node.key")
    with coordinator(commands, here) as endpoint:
        printed(commands, "keys", "rotate", "--keys", str(here), "--connect", endpoint)
    after = read_key_pair(here / "node.key")
    assert before is not None
    assert after is not None
    listed = printed(commands, "keys", "list", "--keys", str(here))
    assert after.public in listed
    assert before.public not in listed


def test_the_coordinator_changes_its_key_under_running_nodes(
    commands: Commands, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    printed(commands, "keys", "init", "--keys", str(here), "--name", "hub")
    rotate = ("keys", "rotate-coordinator", "--keys", str(here))
    with contextlib.ExitStack() as stack:
        with coordinator(commands, here) as endpoint:
            invite = ("keys", "invite", "--role", "target", "--role", "client")
            token = printed(commands, *invite, "--endpoint", endpoint, "--keys", str(here))
            printed(commands, "join", token, "--name", "nano", "--keys", str(there))
            stack.enter_context(
                commands.started("target", "--model", "toy:1", "--keys", str(there))
            )
            old = read_key_pair(here / "coordinator.key")
            _, _, next_key = printed(commands, *rotate).partition("public key is ")
            next_key = next_key.partition(";")[0]
            told = f'next_key = "{next_key}"'
            wait_until(lambda: told in (there / "coordinator.toml").read_text())
            printed(commands, *rotate, "--finish")
        new = read_key_pair(here / "coordinator.key")
        assert new is not None
        assert old is not None
        assert (new.public, new.public == old.public) == (next_key, False)
        listen = ("coordinator", "--listen", endpoint, "--keys", str(here))
        stack.enter_context(commands.started(*listen))
        # The node that went on running, and a command that is started now.
        ask = ("generate", "--prompt", "x", "--raw", "--max-tokens", "4", "--keys", str(there))
        wait_until(lambda: commands.run(*ask).returncode == 0)
        known = (there / "coordinator.toml").read_text()
        assert f'key = "{next_key}"' in known
        assert "next_key" not in known


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("coordinator", "--listen", "tcp://0.0.0.0:7411"), 78, "run `airdraft keys init`"),
        (("draft", "--connect", "tcp://10.0.0.1:7411"), 78, "`airdraft join` on others"),
        (("generate", "--prompt", "x", "--connect", "tcp://h:1"), 78, "tcp://h:1 is not loopback"),
        (("up", "--listen", "tcp://*:7411", "--model", "toy:1"), 78, "need keys"),
        (
            ("keys", "invite", "--role", "draft", "--endpoint", "x"),
            78,
            "keys init` first",
        ),
        (("keys", "list"), 78, "has no coordinator's key"),
        (("keys", "rotate"), 78, "needs no key"),
        (("keys", "rotate-coordinator"), 78, "keys init` first"),
        (("keys", "add", "short", "--name", "a", "--role", "draft"), 78, "keys init` first"),
        (("keys", "invite", "--endpoint", "x"), 2, "--role"),
        (("keys", "add", "x", "--name", "a", "--role", "boss"), 2, "boss"),
        (("join", "airdraft1-x"), 78, "this is not an invitation"),
    ],
)
def test_wrong_input_is_one_line(
    commands: Commands, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = commands.run(*arguments)
    assert done.returncode == code
    assert said in error_line(done)


def test_after_init_wrong_input_still_is(commands: Commands, tmp_path: Path) -> None:
    ring = ("--keys", str(tmp_path / "here"))
    printed(commands, "keys", "init", *ring)
    cases = [
        (("keys", "init"), 78, "already has a coordinator's key"),
        (("keys", "rotate-coordinator", "--finish"), 78, "no rotation has begun"),
        (("keys", "revoke", "nobody"), 78, "no authorized node has the key or name"),
        (("keys", "add", "short", "--name", "a", "--role", "draft"), 78, "40 characters of Z85"),
        (("keys", "invite", "--role", "draft", "--endpoint", "10.0.0.1"), 78, "expected tcp://"),
        (("keys", "invite", "--role", "draft", "--endpoint", "tcp://0.0.0.0:7"), 2, "the address"),
    ]
    for expiry in ("0s", "5", "1w", "99d", "-5m", "m", "½h", "²d"):
        invite = ("keys", "invite", "--role", "draft", "--endpoint", "tcp://10.0.0.1:7")
        cases.append(((*invite, f"--expires={expiry}"), 2, "--expires"))
    for arguments, code, said in cases:
        done = commands.run(*arguments, *ring)
        assert (done.returncode, said in error_line(done)) == (code, True), done.stderr


@pytest.mark.parametrize("start", ["-", "--", "-h"])
def test_a_key_may_begin_like_an_option(commands: Commands, tmp_path: Path, start: str) -> None:
    keys = ("--keys", str(tmp_path / "keys"))
    printed(commands, "keys", "init", *keys, "--name", "hub")
    key = start + "ne@$wvo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hIDabc"[: 40 - len(start)]
    added = printed(commands, "keys", "add", key, "--name", "nano", "--role", "draft", *keys)
    assert added == "nano is authorized as draft"
    assert "nano" in printed(commands, "keys", "list", *keys)
    printed(commands, "keys", "revoke", key, *keys)
    assert "nano" not in printed(commands, "keys", "list", *keys)
