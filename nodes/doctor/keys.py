"""Checks key files: their permissions, the keys of this machine, and authorized keys."""

import os
import stat
from collections import Counter
from pathlib import Path

from airdraft.mesh.errors import KeysError
from airdraft.nodes.doctor.finding import Finding, fail, note, ok, warn
from airdraft.nodes.keys.keyring import Keyring

_INIT = "`airdraft keys init` on the coordinator's machine, `airdraft join TOKEN` on others"


def check_keys(ring: Keyring) -> list[Finding]:
    """Check a directory of keys."""
    try:
        if ring.own() is None and ring.coordinator_pair() is None:
            return [
                note(f"no keys in {ring.directory}: this machine works on loopback only", _INIT)
            ]
    except KeysError:
        # The checks below report this.
        pass
    findings = [check_mode(ring.directory)]
    for part in (_own, _known, _coordinator):
        try:
            findings += part(ring)
        except KeysError as error:
            findings.append(fail(str(error), "repair or remove that file, then join again"))
    return findings


def check_mode(directory: Path) -> Finding:
    try:
        info = directory.stat()
    except OSError as error:
        return fail(f"key directory {directory}: {error.strerror}", "chmod 700 it")
    if info.st_uid not in (0, os.geteuid()):
        return fail(f"key directory {directory} belongs to another user", "chown it")
    if stat.S_IMODE(info.st_mode) & 0o022:
        return fail(f"other users can write to key directory {directory}", f"chmod 700 {directory}")
    return ok(f"key directory {directory}")


def _own(ring: Keyring) -> list[Finding]:
    if ring.own() is None:
        return [warn("this machine has no key of its own", _INIT)]
    return [ok("this machine's key")]


def _known(ring: Keyring) -> list[Finding]:
    known = ring.known_coordinator()
    if known is None:
        return []
    return [ok(f"joined the coordinator at {known.endpoint}")]


def _coordinator(ring: Keyring) -> list[Finding]:
    pair = ring.coordinator_pair()
    if pair is None:
        return []
    store = ring.authorized()
    nodes, invited = store.nodes(), store.invitations()
    if not nodes and not invited:
        return [fail("no key is authorized", "airdraft keys invite, or airdraft keys add")]
    counts = Counter(role for entry in nodes.values() for role in entry.roles)
    roles = ", ".join(f"{number} {role}" for role, number in sorted(counts.items()))
    findings = [ok(f"{len(nodes)} authorized key(s): {roles or 'none yet'}")]
    if "admin" not in counts:
        mend = "airdraft keys revoke NAME, then airdraft keys add KEY --name NAME --role admin ..."
        findings.append(
            note("no key has the role admin, which draining and dropping nodes needs", mend)
        )
    if invited:
        findings.append(note(f"{len(invited)} open invitation(s)", "airdraft keys list"))
    return findings
