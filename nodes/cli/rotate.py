"""`airdraft keys rotate` and `rotate-coordinator`: replace keys by new ones."""

from dataclasses import replace

import click

from mesh.errors import KeysError
from mesh.keys import COORDINATOR_KEY_FILE, ClientKeys, KeyPair
from nodes.cli.connection import coordinator_keyring, run_to_result
from nodes.cli.options import keys_option
from nodes.keys.enrol import EnrolError, enrol
from nodes.service.roles import keyring


@click.command("rotate")
@keys_option
@click.option("--connect", default="", metavar="ENDPOINT", help="The coordinator's endpoint.")
def rotate_command(keys: str | None, connect: str) -> None:
    """Create a new key for this machine and replace the old one at the coordinator.

    Nodes of this machine that run still use the old key, which the coordinator no longer accepts:
    restart them.

    \b
    Example:
      airdraft keys rotate
    """
    ring = keyring(keys)
    endpoint = ring.endpoint(connect)
    old = ring.client_keys(endpoint)
    if old is None:
        raise KeysError(f"the link to {endpoint} needs no key: there is none to rotate")
    pair = ring.make_next()
    run_to_result(lambda: _rotate(endpoint, old, pair))
    ring.adopt_next(pair)
    click.echo(f"the key of this machine is now {pair.public}; restart its nodes")


@click.command("rotate-coordinator")
@keys_option
@click.option("--finish", "step", flag_value="finish", help="Use the next key from now on.")
@click.option("--cancel", "step", flag_value="cancel", help="Drop the next key.")
def rotate_coordinator_command(keys: str | None, step: str | None) -> None:
    """Change the key of the coordinator in two steps.

    The first step creates the next key; machines that connect to the running coordinator store it
    beside the present one. Once all of them have been connected, run the command again with
    --finish and restart the coordinator.

    \b
    Example:
      airdraft keys rotate-coordinator
      airdraft keys rotate-coordinator --finish
    """
    ring = coordinator_keyring(keys)
    if ring.coordinator_pair() is None:
        raise KeysError(
            f"{ring.directory} has no {COORDINATOR_KEY_FILE}: rotate it in the directory from "
            f"which its unit loads it"
        )
    if step == "cancel":
        ring.drop_next_coordinator_pair()
        click.echo("the coordinator keeps its key")
    elif step == "finish":
        pair = ring.adopt_next_coordinator_pair()
        click.echo(
            f"the coordinator's public key is now {pair.public}; restart it. Machines that were "
            f"not connected meanwhile have to join again"
        )
    else:
        pair = ring.make_next_coordinator_pair()
        click.echo(
            f"the coordinator's next public key is {pair.public}; machines store it when they "
            f"connect. Then run `airdraft keys rotate-coordinator --finish`"
        )


async def _rotate(endpoint: str, old: ClientKeys, pair: KeyPair) -> None:
    try:
        await enrol(endpoint, old, pair.public, "")
    except EnrolError:
        # An earlier attempt may have succeeded while its answer was lost.
        await enrol(endpoint, replace(old, own=pair), pair.public, "")
