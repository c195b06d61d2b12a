"""`airdraft keys ...` and `airdraft join`: manage the keys of machines, and join a mesh."""

import re
import socket
import sys
import time
from dataclasses import replace

import click

from airdraft.mesh.authorized import Entry
from airdraft.mesh.endpoints import check_connect
from airdraft.mesh.errors import KeysError
from airdraft.mesh.keys import ClientKeys, KeyPair, KnownCoordinator, is_name
from airdraft.mesh.security import new_key_pair
from airdraft.nodes.cli.connection import coordinator_keyring
from airdraft.nodes.cli.options import keys_option, mesh_options
from airdraft.nodes.keys.enrol import EnrolError, Invitation, enrol
from airdraft.nodes.messages.access import ROLES
from airdraft.nodes.service.roles import keyring
from airdraft.nodes.service.runtime import run_to_end

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MAX_EXPIRY_S = 30 * 86400
_MAX_SHOWN_BYTES = 1024
_roles_option = click.option(
    "--role",
    "roles",
    multiple=True,
    required=True,
    type=click.Choice(sorted(ROLES)),
    help="What the key may be used for; repeatable.",
)


def _host_name() -> str:
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", socket.gethostname()).strip("-.")[:32]
    return name if is_name(name) else "node"


@click.group("keys")
def keys_group() -> None:
    """Manage the keys of this machine and of the machines that may connect to it.

    \b
    Example, on the coordinator's machine:
      airdraft keys init
      airdraft keys invite --role draft --endpoint tcp://10.0.0.1:7411
    and on the other machine:
      airdraft join TOKEN
    """


# One key in 85 begins with "-" and must not be parsed as an option.
_WITH_KEYS = {"ignore_unknown_options": True, "help_option_names": ["--help"]}


@keys_group.command("init")
@keys_option
@click.option("--name", help="Name of this machine.  [default: its host name]")
def init_command(keys: str | None, name: str | None) -> None:
    """Create the keys of a coordinator on this machine, and authorize the machine's own nodes.

    \b
    Example:
      airdraft keys init
    """
    ring = keyring(keys)
    if (public := ring.coordinator_public()) is not None:
        raise KeysError(f"{ring.directory} already has a coordinator's key: {public.key}")
    own, authorized = ring.make_own(), ring.authorized()
    # An earlier attempt may have authorized the key and then failed to write the next file.
    if own.public not in authorized.nodes():
        authorized.add(Entry(own.public, name or _host_name(), ROLES))
    pair = ring.make_coordinator_pair()
    click.echo(f"keys in {ring.directory}; the coordinator's public key is {pair.public}")


@keys_group.command("show-public")
@keys_option
def show_public_command(keys: str | None) -> None:
    """Print the public keys of this machine; create its own key if there is none.

    \b
    Example:
      airdraft keys show-public
    """
    ring = keyring(keys)
    click.echo(f"node {ring.make_own().public}")
    public = ring.coordinator_public()
    if public is not None:
        click.echo(f"coordinator {public.key}")


@keys_group.command("add", context_settings=_WITH_KEYS)
@click.argument("public_key")
@click.option("--name", required=True, help="Name of the machine.")
@_roles_option
@keys_option
def add_command(public_key: str, name: str, roles: tuple[str, ...], keys: str | None) -> None:
    """Authorize the public key of a machine, which `airdraft keys show-public` prints on it.

    - reads the output of that command from standard input.

    \b
    Example:
      airdraft keys add 'Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID' --name nano --role draft
    """
    if public_key == "-":
        public_key = _own_of(sys.stdin.buffer.read(_MAX_SHOWN_BYTES).decode(errors="replace"))
    coordinator_keyring(keys).authorized().add(Entry(public_key, name, frozenset(roles)))
    click.echo(f"{name} is authorized as {', '.join(sorted(roles))}")


@keys_group.command("invite")
@_roles_option
@click.option(
    "--endpoint",
    required=True,
    metavar="ENDPOINT",
    help="The coordinator's endpoint for that machine, such as tcp://10.0.0.1:7411.",
)
@click.option("--name", default="", help="Name of the machine.  [default: its own choice]")
@click.option(
    "--expires",
    default="15m",
    show_default=True,
    metavar="TIME",
    help="Validity, such as 30s, 15m, 2h or 1d.",
)
@keys_option
def invite_command(
    roles: tuple[str, ...], endpoint: str, name: str, expires: str, keys: str | None
) -> None:
    """Print a token with which one machine can join once.

    \b
    Example:
      airdraft keys invite --role draft --endpoint tcp://10.0.0.1:7411
    """
    ring = coordinator_keyring(keys)
    server = ring.coordinator_public()
    assert server is not None
    check_connect(endpoint)
    if "//0.0.0.0:" in endpoint or "//[::]:" in endpoint:
        raise click.UsageError(
            f"--endpoint {endpoint}: give the address at which that machine reaches the coordinator"
        )
    pair = new_key_pair()
    deadline = int(time.time()) + _seconds(expires)
    for replaced in ring.authorized().invite(Entry(pair.public, name, frozenset(roles), deadline)):
        click.echo(f"the earlier invitation of {replaced.name} is no longer valid", err=True)
    click.echo(Invitation(endpoint, server.key, pair).token())


@keys_group.command("revoke", context_settings=_WITH_KEYS)
@click.argument("name_or_key")
@keys_option
def revoke_command(name_or_key: str, keys: str | None) -> None:
    """Revoke a machine's key. A running coordinator applies it at the machine's next message.

    \b
    Example:
      airdraft keys revoke nano
    """
    for entry in coordinator_keyring(keys).authorized().revoke(name_or_key):
        name = entry.name or entry.key
        if entry.expires_unix:
            click.echo(f"the invitation of {name} is no longer valid")
        else:
            click.echo(f"{name} is no longer authorized")


@keys_group.command("list")
@keys_option
def list_command(keys: str | None) -> None:
    """List authorized machines and open invitations.

    \b
    Example:
      airdraft keys list
    """
    store = coordinator_keyring(keys).authorized()
    for entry in store.nodes().values():
        click.echo(f"{entry.name}  {', '.join(sorted(entry.roles))}  {entry.key}")
    for entry in store.invitations().values():
        left_s = entry.expires_unix - int(time.time())
        click.echo(
            f"(invited{' ' + entry.name if entry.name else ''})  "
            f"{', '.join(sorted(entry.roles))}  {entry.key}  valid for {max(0, left_s)} s"
        )


@keys_group.command("rotate")
@mesh_options
def rotate_command(keys: str | None, connect: str | None) -> None:
    """Create a new key for this machine and replace the old one at the coordinator.

    Nodes of this machine that run still use the old key, which the coordinator no longer accepts:
    restart them.

    \b
    Example:
      airdraft keys rotate
    """
    ring = keyring(keys)
    endpoint = ring.endpoint(connect or "")
    old = ring.client_keys(endpoint)
    if old is None:
        raise KeysError(f"the link to {endpoint} needs no key: there is none to rotate")
    pair = ring.make_next()
    run_to_end(lambda: _rotate(endpoint, old, pair))
    ring.adopt_next()
    click.echo(f"the key of this machine is now {pair.public}; restart its nodes")


async def _rotate(endpoint: str, old: ClientKeys, pair: KeyPair) -> None:
    try:
        await enrol(endpoint, old, pair.public, "")
    except EnrolError:
        # An earlier attempt may have succeeded while its answer was lost.
        await enrol(endpoint, replace(old, own=pair), pair.public, "")


@click.command("join")
@click.argument("token", default="-")
@click.option("--name", help="Name of this machine.  [default: its host name]")
@keys_option
def join_command(token: str, name: str | None, keys: str | None) -> None:
    """Join a mesh with a token that `airdraft keys invite` printed on its coordinator's machine.

    - reads the token from standard input.

    \b
    Example:
      airdraft join airdraft1-WyJ0Y3A6Ly8xMC4wLjAuMTo3NDEx...
      airdraft draft
    """
    if token == "-":
        # Bytes that are not UTF-8 are replaced; such a token is refused later.
        token = sys.stdin.buffer.readline().decode(errors="replace")
    invitation = Invitation.from_token(token)
    ring = keyring(keys)
    own = ring.make_own()
    # The invitation works only once, so check first that the result can be stored.
    ring.check_room()
    invited = ClientKeys(invitation.pair, invitation.server_key)
    reply = run_to_end(
        lambda: enrol(invitation.endpoint, invited, own.public, name or _host_name())
    )
    ring.keep_coordinator(KnownCoordinator(invitation.endpoint, invitation.server_key))
    click.echo(f"joined {invitation.endpoint} as {reply.name}, for {', '.join(reply.roles)}")


def _own_of(shown: str) -> str:
    """The machine's own key in the output of `keys show-public`; "" if there is none."""
    words = (line.split() for line in shown.splitlines())
    return next((line[1] for line in words if len(line) == 2 and line[0] == "node"), "")


def _seconds(text: str) -> int:
    number, unit = text[:-1], text[-1:]
    # Python refuses to read numbers of thousands of digits.
    is_number = number.isdecimal() and len(number) < 10
    seconds = int(number) * _UNITS.get(unit, 0) if is_number else 0
    if not 0 < seconds <= _MAX_EXPIRY_S:
        raise click.UsageError(
            f"--expires {text!r}: a time such as 30s, 15m, 2h or 1d is accepted, up to 30d"
        )
    return seconds
