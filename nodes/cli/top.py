"""`airdraft top`: what a running mesh does, live in a terminal."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

import click

from mesh.keys import ClientKeys
from mesh.zmq_transport import ZmqContext
from nodes.cli.options import keys_option
from nodes.cli.screen import Screen, keyboard
from nodes.cli.top_view import frame
from nodes.client.client import Client
from nodes.service.roles import link_of
from nodes.service.runtime import run, set_up_logging
from nodes.telemetry.history import History
from nodes.telemetry.status import encode_status

_REFRESH_S: Final = 1.0
# Of a frame for a file or a pipe.
_WIDE, _LONG = 160, 10_000

Work = Callable[[Client], Awaitable[None]]


@click.command("top")
@click.option("--once", is_flag=True, help="Print one frame and end; for scripts.")
@click.option("--json", "as_json", is_flag=True, help="Print the status document and end.")
@click.option(
    "--connect",
    default="",
    metavar="ENDPOINT",
    help="The coordinator's endpoint.  [default: the one this machine joined, else the one on it]",
)
@keys_option
@click.option("-v", "--verbose", count=True, help="Log more.")
def top_command(**values: Any) -> None:
    """Show nodes, streams, plans and what becomes of them; q ends it.

    Where links have keys, it needs one with the role admin.

    \b
    Examples:
      airdraft top
      airdraft top --once
      airdraft top --json
    """
    set_up_logging(values["verbose"])
    if values["once"] and values["as_json"]:
        raise click.UsageError("--once and --json are two forms of one thing: give one of them")
    work: Work = _json if values["as_json"] else _once if values["once"] else _live
    if work is _live and not sys.stdout.isatty():
        raise click.UsageError("standard output is no terminal: give --once or --json")
    endpoint, keys = link_of(values["connect"], values["keys"] or "")
    code = run(lambda: _beside(endpoint, keys, work))
    if code:
        sys.exit(code)


async def _beside(endpoint: str, keys: ClientKeys | None, work: Work) -> None:
    """Work with a client until either ends."""
    with ZmqContext() as context:
        client = Client(context.connect(endpoint, keys), endpoint=endpoint, role="admin")
        serving = asyncio.create_task(client.run())
        working = asyncio.ensure_future(work(client))
        try:
            await asyncio.wait([serving, working], return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
            await working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            client.close()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


async def _json(client: Client) -> None:
    click.echo(encode_status(await client.status()))


async def _once(client: Client) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDE
    click.echo("\n".join(frame(await client.status(), width, _LONG)))


async def _live(client: Client) -> None:
    """Draw until q is pressed; a status is asked for each second, a new size is drawn at once."""
    loop = asyncio.get_running_loop()
    # Before the screen is taken: until the coordinator has answered there is nothing to show.
    status = await client.status()
    screen, history = Screen(sys.stdout), History()
    history.add(status)
    with screen.taken(keyboard()):
        due = loop.time() + _REFRESH_S
        while True:
            screen.draw(frame(status, *screen.size(), list(history)))
            if "q" in await screen.wait(max(0.0, due - loop.time())):
                return
            if loop.time() >= due:
                status = await client.status()
                history.add(status)
                due = loop.time() + _REFRESH_S
