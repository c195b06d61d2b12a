"""`airdraft keys rotate` and `rotate-coordinator`: new keys in the place of old ones."""

from __future__ import annotations

from dataclasses import replace

import click

from mesh.errors import KeysError
from mesh.keys import COORDINATOR_KEY_FILE, ClientKeys, KeyPair
from nodes.cli.keyring import coordinator_keyring, run_to_result
from nodes.cli.options import keys_option
from nodes.keys.enrol import EnrolError, enrol
from nodes.service.roles import keyring


@click.command("rotate")
@keys_option
@click.option("--connect", default="", metavar="ENDPOINT", help="The coordinator's endpoint.")
def rotate_command(keys: str | None, connect: str) -> None:
    """Draw a new key for this machine, and let the coordinator take it for the old one.

    The nodes of this machine go on with the old key until they are started anew, but are not
    listened to any more: restart them.

    \b
    Example:
      airdraft keys rotate
    """
    ring = keyring(keys or "")
    endpoint = ring.endpoint(connect)
    old = ring.client_keys(endpoint)
    if old is None:
        raise KeysError(f"links to {endpoint} need no keys: there is none to rotate")
    pair = ring.make_next()
    run_to_result(lambda: _rotate(endpoint, old, pair))
    ring.adopt_next(pair)
    click.echo(f"the key of this machine is now {pair.public}; restart its nodes")


@click.command("rotate-coordinator")
@keys_option
@click.option("--finish", "step", flag_value="finish", help="Make the next key the present one.")
@click.option("--cancel", "step", flag_value="cancel", help="Give the next key up.")
def rotate_coordinator_command(keys: str | None, step: str | None) -> None:
    """Change the key that nodes know the coordinator by, in two steps.

    First the next key is drawn, and members of a running coordinator remember it as well as the
    present one. When all of them have been connected, finish, and restart the coordinator.

    \b
    Example:
      airdraft keys rotate-coordinator
      airdraft keys rotate-coordinator --finish
    """
    ring = coordinator_keyring(keys)
    if ring.coordinator_pair() is None:
        raise KeysError(
            f"{ring.directory} has no {COORDINATOR_KEY_FILE}: rotate it where its unit loads it "
            f"from"
        )
    if step == "cancel":
        ring.drop_next_coordinator_pair()
        click.echo("the coordinator keeps its key")
    elif step == "finish":
        pair = ring.adopt_next_coordinator_pair()
        click.echo(
            f"the coordinator's public key is now {pair.public}; restart it. Machines that have "
            f"not been connected meanwhile join anew"
        )
    else:
        pair = ring.make_next_coordinator_pair()
        click.echo(
            f"the coordinator's next public key is {pair.public}; machines learn it while they "
            f"are connected. Then `airdraft keys rotate-coordinator --finish`"
        )


async def _rotate(endpoint: str, old: ClientKeys, pair: KeyPair) -> None:
    try:
        await enrol(endpoint, old, pair.public, "")
    except EnrolError:
        # An earlier attempt may have been heard, and only its answer lost.
        await enrol(endpoint, replace(old, own=pair), pair.public, "")
