"""`airdraft doctor`: reports what is wrong on this machine and how to fix it."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from airdraft.mesh.errors import MeshError
from airdraft.nodes.cli.cells import shown
from airdraft.nodes.cli.connection import with_client
from airdraft.nodes.cli.options import mesh_options
from airdraft.nodes.client.client import RequestFailedError
from airdraft.nodes.config.settings import LOOPBACK_ENDPOINT
from airdraft.nodes.config.sources import environment
from airdraft.nodes.doctor import hops, machine
from airdraft.nodes.doctor.checks import ROLES, Asked, all_local, check_config, roles_in
from airdraft.nodes.doctor.finding import Finding, Level, fail
from airdraft.nodes.service.roles import keyring
from airdraft.nodes.service.runtime import first_cause, set_up_logging

_HOP_LIMIT_S = 30.0


@click.command("doctor")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Configuration file to check, for the role in --role.",
)
@click.option(
    "--role",
    type=click.Choice(list(ROLES)),
    help="Check only this role.  [default: all roles, as the environment configures them]",
)
@click.option("--local", is_flag=True, help="Do not check the coordinator and its nodes.")
@click.option("-v", "--verbose", is_flag=True, help="Also show checks that passed.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of all findings.")
@mesh_options
def doctor_command(config: Path | None, role: str | None, **values: Any) -> None:
    """Check this machine, its installation and its link to the mesh, and suggest fixes.

    The exit code is 1 if a check failed, otherwise 0.

    \b
    Examples:
      airdraft doctor
      airdraft doctor --role target --config target.toml
      airdraft doctor --connect tcp://10.0.0.1:7411 --json
    """
    set_up_logging(0)
    if config is not None and role is None:
        raise click.UsageError(f"--config needs --role: {', '.join(ROLES)}")
    roles = [role] if role is not None else roles_in(environment())
    connect, keys = values["connect"], values["keys"]
    if role is not None:
        _, found = check_config(role, config, environment())
        keys = keys or getattr(found, "keys", None)
        connect = connect or getattr(found, "connect", None)
    asked = Asked(dict.fromkeys(roles, config), environment(), keyring(keys))
    findings = all_local(asked)
    if not values["local"]:
        findings += _mesh(connect, keys)
    if values["as_json"]:
        rows = [{"level": f.level.value, "what": f.what, "mend": f.mend} for f in findings]
        click.echo(json.dumps(rows))
    else:
        click.echo(text_of(findings, verbose=values["verbose"]))
    if any(finding.level is Level.FAIL for finding in findings):
        sys.exit(1)


def _mesh(connect: str | None, keys: str | None) -> list[Finding]:
    try:
        ring = keyring(keys)
        endpoint = ring.endpoint(connect or "")
    except MeshError:
        # The checks of the keys report this.
        return []
    at_home = not connect and endpoint in (ring.private, LOOPBACK_ENDPOINT)
    if at_home and machine.is_free(endpoint):
        return [hops.check_absent(endpoint)]
    return asyncio.run(_hops(endpoint, keys))


async def _hops(connect: str, keys: str | None) -> list[Finding]:
    try:
        async with asyncio.timeout(_HOP_LIMIT_S):
            hop = await with_client(connect, keys, hops.measure)
    except TimeoutError:
        return [fail("the coordinator does not answer", "read its log, then restart it")]
    except (MeshError, RequestFailedError, ExceptionGroup) as error:
        cause = first_cause(error)
        if not isinstance(cause, MeshError | RequestFailedError):
            raise
        what, _, mend = str(cause).partition(": ")
        return [fail(what, mend)]
    return [*hops.check_hop(hop, connect), *hops.check_nodes(hop.nodes)]


def text_of(findings: Sequence[Finding], *, verbose: bool) -> str:
    """Format each finding as a line with its remedy below; passed checks only if verbose."""
    lines = []
    for finding in findings:
        if finding.level is Level.OK and not verbose:
            continue
        # Names of nodes may contain control characters.
        lines.append(f"{finding.level:<5} {shown(finding.what)}")
        if finding.mend:
            lines.append(f"      -> {shown(finding.mend)}")
    counts = {level: sum(f.level is level for f in findings) for level in Level}
    lines.append(", ".join(f"{number} {level}" for level, number in counts.items() if number))
    return "\n".join(lines)
