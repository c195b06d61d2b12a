"""`airdraft keys ...` and `airdraft join`: who may talk to whom."""

from __future__ import annotations

import re
import socket
import sys
import time

import click

from mesh.authorized import Entry
from mesh.endpoints import check_connect
from mesh.errors import KeysError
from mesh.keys import ClientKeys, KnownCoordinator, is_name
from mesh.security import new_key_pair
from nodes.cli.keyring import coordinator_keyring, run_to_result
from nodes.cli.options import keys_option
from nodes.cli.rotate import rotate_command, rotate_coordinator_command
from nodes.keys.enrol import Invitation, enrol
from nodes.messages.access import ROLES
from nodes.service.roles import keyring

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MAX_EXPIRY_S = 30 * 86400
_MAX_SHOWN_BYTES = 1024
_roles_option = click.option(
    "--role",
    "roles",
    multiple=True,
    required=True,
    type=click.Choice(sorted(ROLES)),
    help="What the key may be used for; may be given several times.",
)


def _host_name() -> str:
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", socket.gethostname()).strip("-.")[:32]
    return name if is_name(name) else "node"


@click.group("keys")
def keys_group() -> None:
    """Keys of this machine and of those that may connect to it.

    \b
    Example, on the coordinator's machine:
      airdraft keys init
      airdraft keys invite --role draft --endpoint tcp://10.0.0.1:7411
    and on the other:
      airdraft join TOKEN
    """


# One key in 85 begins with "-", and is no option.
_WITH_KEYS = {"ignore_unknown_options": True, "help_option_names": ["--help"]}


@keys_group.command("init")
@keys_option
@click.option("--name", help="Name of this machine.  [default: its host name]")
def init_command(keys: str | None, name: str | None) -> None:
    """Make this machine a coordinator's: draw its keys, and authorize its own nodes.

    \b
    Example:
      airdraft keys init
    """
    ring = keyring(keys or "")
    if (public := ring.coordinator_public()) is not None:
        raise KeysError(f"{ring.directory} has a coordinator's key already: {public.key}")
    own, authorized = ring.make_own(), ring.authorized()
    # An earlier attempt may have come so far, and then there was no room for the next file.
    if own.public not in authorized.nodes():
        authorized.add(Entry(own.public, name or _host_name(), ROLES))
    pair = ring.make_coordinator_pair()
    click.echo(f"keys in {ring.directory}; the coordinator's public key is {pair.public}")


@keys_group.command("show-public")
@keys_option
def show_public_command(keys: str | None) -> None:
    """Print the public keys of this machine; its own is drawn if there is none.

    \b
    Example:
      airdraft keys show-public
    """
    ring = keyring(keys or "")
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
    """Authorize a machine's public key, as `airdraft keys show-public` prints it there; - reads
    what that printed from stdin.

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
    help="Where the coordinator can be reached from there, such as tcp://10.0.0.1:7411.",
)
@click.option("--name", default="", help="Name of the machine.  [default: what it calls itself]")
@click.option(
    "--expires", default="15m", show_default=True, metavar="TIME", help="30s, 15m, 2h, 1d."
)
@keys_option
def invite_command(
    roles: tuple[str, ...], endpoint: str, name: str, expires: str, keys: str | None
) -> None:
    """Print a token with which one machine can join, once.

    \b
    Example:
      airdraft keys invite --role draft --endpoint tcp://10.0.0.1:7411
    """
    ring = coordinator_keyring(keys)
    server = ring.coordinator_public()
    assert server is not None
    check_connect(endpoint)
    pair = new_key_pair()
    deadline = int(time.time()) + _seconds(expires)
    for replaced in ring.authorized().invite(Entry(pair.public, name, frozenset(roles), deadline)):
        click.echo(f"the earlier invitation of {replaced.name} cannot be used any more", err=True)
    click.echo(Invitation(endpoint, server.key, pair).token())


@keys_group.command("revoke", context_settings=_WITH_KEYS)
@click.argument("name_or_key")
@keys_option
def revoke_command(name_or_key: str, keys: str | None) -> None:
    """Take a machine off the list; a running coordinator heeds it with the next message.

    \b
    Example:
      airdraft keys revoke nano
    """
    for entry in coordinator_keyring(keys).authorized().revoke(name_or_key):
        name = entry.name or entry.key
        if entry.expires_unix:
            click.echo(f"the invitation of {name} cannot be used any more")
        else:
            click.echo(f"{name} is not authorized any more")


@keys_group.command("list")
@keys_option
def list_command(keys: str | None) -> None:
    """Show who is authorized, and which invitations are open.

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
            f"{', '.join(sorted(entry.roles))}  {entry.key}  for {max(0, left_s)} s more"
        )


@click.command("join")
@click.argument("token", default="-")
@click.option("--name", help="Name of this machine.  [default: its host name]")
@keys_option
def join_command(token: str, name: str | None, keys: str | None) -> None:
    """Join a mesh with a token that `airdraft keys invite` printed there; - reads it from stdin.

    \b
    Example:
      airdraft join airdraft1-WyJ0Y3A6Ly8xMC4wLjAuMTo3NDEx...
      airdraft draft
    """
    if token == "-":
        # What is no text is no token either.
        token = sys.stdin.buffer.readline().decode(errors="replace")
    invitation = Invitation.from_token(token)
    ring = keyring(keys or "")
    own = ring.make_own()
    # The invitation is good for one use.
    ring.check_room()
    invited = ClientKeys(invitation.pair, invitation.server_key)
    reply = run_to_result(
        lambda: enrol(invitation.endpoint, invited, own.public, name or _host_name())
    )
    ring.keep_coordinator(KnownCoordinator(invitation.endpoint, invitation.server_key))
    click.echo(f"joined {invitation.endpoint} as {reply.name}, for {', '.join(reply.roles)}")


def _own_of(shown: str) -> str:
    """The machine's own key among what `keys show-public` prints; "" where it is not there."""
    words = (line.split() for line in shown.splitlines())
    return next((line[1] for line in words if len(line) == 2 and line[0] == "node"), "")


def _seconds(text: str) -> int:
    number, unit = text[:-1], text[-1:]
    if (
        unit not in _UNITS
        or not number.isdigit()
        or not 0 < int(number) * _UNITS[unit] <= 30 * 86400
    ):
        raise click.UsageError(f"--expires {text!r}: such as 30s, 15m, 2h or 1d, at most 30d")
    return int(number) * _UNITS[unit]


keys_group.add_command(rotate_command)
keys_group.add_command(rotate_coordinator_command)
