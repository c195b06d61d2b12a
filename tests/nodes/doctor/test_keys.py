import time
from pathlib import Path

import pytest

from airdraft.mesh.authorized import Entry
from airdraft.mesh.keys import KnownCoordinator
from airdraft.mesh.security import new_key_pair
from airdraft.nodes.doctor.finding import Finding, Level
from airdraft.nodes.doctor.keys import check_keys
from airdraft.nodes.keys.keyring import Keyring
from airdraft.nodes.messages.access import ROLES


@pytest.fixture
def ring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "keys")


def said(findings: list[Finding], text: str) -> Finding:
    (found,) = [f for f in findings if text in f.what]
    return found


def test_without_keys_there_is_only_loopback(ring: Keyring) -> None:
    (finding,) = check_keys(ring)
    assert (finding.level, "loopback only" in finding.what) == (Level.NOTE, True)


def test_a_coordinator_with_everything(ring: Keyring) -> None:
    own = ring.make_own()
    ring.make_coordinator_pair()
    ring.authorized().add(Entry(own.public, "hub", ROLES))
    findings = check_keys(ring)
    assert {f.level for f in findings} == {Level.OK}
    assert "1 admin" in said(findings, "authorized key").what


def test_what_a_coordinator_may_lack(ring: Keyring) -> None:
    ring.make_coordinator_pair()
    findings = check_keys(ring)
    assert said(findings, "no key is authorized").level is Level.FAIL
    assert said(findings, "no key of its own").level is Level.WARN
    ring.authorized().add(Entry(new_key_pair().public, "nano", frozenset({"draft"})))
    guest = Entry(new_key_pair().public, "", frozenset({"draft"}), int(time.time()) + 60)
    ring.authorized().invite(guest)
    findings = check_keys(ring)
    assert said(findings, "no key has the role admin").level is Level.NOTE
    assert said(findings, "1 open invitation").level is Level.NOTE


def test_a_machine_that_joined(ring: Keyring) -> None:
    ring.make_own()
    ring.keep_coordinator(KnownCoordinator("tcp://10.0.0.1:7411", new_key_pair().public))
    findings = check_keys(ring)
    assert said(findings, "joined the coordinator at tcp://10.0.0.1:7411").level is Level.OK


def test_files_that_others_can_read_or_write(ring: Keyring) -> None:
    ring.make_own()
    (ring.directory / "node.key").chmod(0o644)
    assert said(check_keys(ring), "other users can read").level is Level.FAIL
    (ring.directory / "node.key").chmod(0o600)
    ring.directory.chmod(0o777)
    finding = said(check_keys(ring), "other users can write")
    assert (finding.level, finding.mend) == (Level.FAIL, f"chmod 700 {ring.directory}")


def test_a_file_that_cannot_be_understood(ring: Keyring) -> None:
    ring.make_own()
    ring.make_coordinator_pair()
    (ring.directory / "authorized_nodes.toml").write_text("[[node]]\nkey = 3\n")
    assert said(check_keys(ring), "authorized_nodes.toml").level is Level.FAIL
