"""`airdraft nodes list|drain|undrain|drop`: lists the nodes of a mesh and removes nodes."""

import asyncio
import dataclasses
import json
from collections.abc import Sequence

import click

from airdraft.nodes.cli.cells import Column, table
from airdraft.nodes.cli.connection import with_client
from airdraft.nodes.cli.options import mesh_options
from airdraft.nodes.client.client import MeshClient, RequestFailedError
from airdraft.nodes.messages import APART, NodeFields
from airdraft.nodes.messages.fingerprint import model_ids
from airdraft.nodes.service.runtime import run_to_end, set_up_logging

_POLL_S = 0.25
_MOST_CELLS = 1 << 16
_HEADS = ("node", "role", "state", "model", "class", "streams", "rtt", "notes")
_COLUMNS = [Column(head, _MOST_CELLS) for head in _HEADS]


@click.group("nodes")
def nodes_group() -> None:
    """List the nodes of a running mesh, or remove one.

    If links have keys, removing a node needs a key with the role admin.

    \b
    Examples:
      airdraft nodes list
      airdraft nodes drain nano/target
    """
    set_up_logging(0)


@nodes_group.command("list")
@mesh_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_command(connect: str | None, keys: str | None, as_json: bool) -> None:
    """List the nodes in the mesh.

    \b
    Example:
      airdraft nodes list
    """

    async def ask(client: MeshClient) -> Sequence[NodeFields]:
        return (await client.nodes()).nodes

    found: Sequence[NodeFields] = run_to_end(lambda: with_client(connect, keys, ask))
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(node) for node in found]))
    elif found:
        click.echo(table_of(found))
    else:
        click.echo("no node has joined: start one with `airdraft target`", err=True)


def table_of(nodes: Sequence[NodeFields]) -> str:
    ids = model_ids((node.model, node.model_hash) for node in nodes)
    rows = [_row(node, ids[node.model, node.model_hash]) for node in nodes]
    return "\n".join(table(_COLUMNS, rows, len(_COLUMNS) * _MOST_CELLS))


def _row(node: NodeFields, model: str) -> tuple[str, ...]:
    is_target = node.role == "target"
    notes = ["emulated"] if node.emulated else []
    if is_target and not node.exact:
        notes.append("not exact")
    if APART in node.numerics_class:
        notes.append("computes other bits than its class")
    return (
        node.node,
        node.role,
        "draining" if node.is_draining else "up",
        model,
        node.numerics_class if is_target else "-",
        str(node.num_streams) if is_target else "-",
        f"{node.rtt_us / 1000:.1f} ms" if node.rtt_us else "-",
        ", ".join(notes),
    )


@nodes_group.command("drain")
@click.argument("name")
@click.option("--wait/--no-wait", default=True, help="Wait until the node has left.")
@mesh_options
def drain_command(name: str, wait: bool, connect: str | None, keys: str | None) -> None:
    """Remove a node without disturbing requests.

    The node gets no new streams. Its present streams move to another node that can serve them, or
    else end on this one. Then the node leaves. Ctrl-C ends the waiting, not the draining.

    \b
    Example:
      airdraft nodes drain nano/target
    """

    async def drain(client: MeshClient) -> None:
        num_streams = await client.command_node("drain", name)
        if not wait:
            click.echo(f"{name} is being drained: {_streams(num_streams)}")
            return
        while (node := await _find(client, name)) is not None:
            if not node.is_draining:
                reason = f"{name} takes streams again: its drain was cancelled"
                raise RequestFailedError("unavailable", reason)
            if node.num_streams != num_streams:
                num_streams = node.num_streams
                click.echo(f"{name}: {_streams(num_streams)}", err=True)
            await asyncio.sleep(_POLL_S)
        click.echo(f"{name} has left")

    run_to_end(lambda: with_client(connect, keys, drain, role="admin"))


async def _find(client: MeshClient, name: str) -> NodeFields | None:
    return next((node for node in (await client.nodes()).nodes if node.node == name), None)


def _streams(number: int) -> str:
    return f"{number} stream{'' if number == 1 else 's'} left"


@nodes_group.command("undrain")
@click.argument("name")
@mesh_options
def undrain_command(name: str, connect: str | None, keys: str | None) -> None:
    """Cancel the drain of a node that has not left yet.

    \b
    Example:
      airdraft nodes undrain nano/target
    """
    _command("undrain", name, connect, keys)
    click.echo(f"{name} takes streams again")


@nodes_group.command("drop")
@click.argument("name")
@mesh_options
def drop_command(name: str, connect: str | None, keys: str | None) -> None:
    """Remove a node at once, as if it had died: its streams pause until another node has them.

    \b
    Example:
      airdraft nodes drop nano/draft
    """
    _command("drop", name, connect, keys)
    click.echo(f"{name} has been removed")


def _command(command: str, name: str, connect: str | None, keys: str | None) -> None:
    run_to_end(
        lambda: with_client(connect, keys, lambda c: c.command_node(command, name), role="admin")
    )
