"""`airdraft top`: shows a running mesh live in a terminal."""

import asyncio
import contextlib
import curses
import shutil
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

import click

from airdraft.nodes.cli.cells import filled
from airdraft.nodes.cli.connection import with_client
from airdraft.nodes.cli.options import mesh_options, verbose_option
from airdraft.nodes.cli.top_view import frame
from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.service.runtime import run_to_end, set_up_logging
from airdraft.nodes.telemetry.status import encode_status

_REFRESH_S: Final = 1.0
_POLL_S: Final = 0.05
# Columns and lines of a frame for a file or a pipe, unless the variable COLUMNS says another width.
_WIDE, _LONG = 400, 10_000

Work = Callable[[MeshClient], Awaitable[None]]


@click.command("top")
@click.option("--once", is_flag=True, help="Print one frame and exit; for scripts.")
@click.option("--json", "as_json", is_flag=True, help="Print the status document and exit.")
@mesh_options
@verbose_option
def top_command(**values: Any) -> None:
    """Show nodes, streams, plans and their results live; q quits.

    If links have keys, the key needs the role admin.

    \b
    Examples:
      airdraft top
      airdraft top --once
      airdraft top --json
    """
    set_up_logging(values["verbose"])
    if values["once"] and values["as_json"]:
        raise click.UsageError("--once and --json exclude each other: give one of them")
    work: Work = _json if values["as_json"] else _once if values["once"] else _live
    if work is _live and not sys.stdout.isatty():
        raise click.UsageError("standard output is not a terminal: give --once or --json")
    if work is _live:
        try:
            curses.setupterm()
        except curses.error:
            raise click.UsageError(
                "the type of this terminal (TERM) is not known: give --once or --json"
            ) from None
    connect, keys = values["connect"], values["keys"]
    run_to_end(lambda: with_client(connect, keys, work, role="admin"))


async def _json(client: MeshClient) -> None:
    click.echo(encode_status(await client.status()))


async def _once(client: MeshClient) -> None:
    fallback = (80 if sys.stdout.isatty() else _WIDE, _LONG)
    width = shutil.get_terminal_size(fallback).columns
    click.echo("\n".join(frame(await client.status(), width, _LONG)))


async def _live(client: MeshClient) -> None:
    """Draw until q is pressed: once a second with a new status, and at once for a new size."""
    loop = asyncio.get_running_loop()
    # Wait for the coordinator before taking the screen: there is nothing to show until then.
    status = await client.status()
    with _screen() as screen:
        due = loop.time() + _REFRESH_S
        key = curses.KEY_RESIZE
        while key != ord("q"):
            if loop.time() >= due:
                status = await client.status()
                due = loop.time() + _REFRESH_S
                key = curses.KEY_RESIZE
            if key == curses.KEY_RESIZE:
                lines, columns = screen.getmaxyx()
                _draw(screen, frame(status, columns, lines), columns)
            await asyncio.sleep(_POLL_S)
            key = screen.getch()


@contextlib.contextmanager
def _screen() -> Iterator[curses.window]:
    """Take over the terminal for full-screen output and single keys, and restore it afterwards."""
    screen = curses.initscr()
    try:
        # It also serves without a keyboard, and where the cursor cannot be hidden.
        with contextlib.suppress(curses.error):
            curses.noecho()
            curses.cbreak()
            curses.curs_set(0)
        screen.nodelay(True)
        screen.keypad(True)
        yield screen
    finally:
        curses.endwin()


def _draw(screen: curses.window, lines: Sequence[str], columns: int) -> None:
    """Draw a frame over the last one, with its first line as a title."""
    screen.erase()
    for row, line in enumerate(lines):
        # The last cell of the screen is written, and then its cursor has no place.
        with contextlib.suppress(curses.error):
            if row == 0:
                screen.addstr(row, 0, filled(line, columns), curses.A_REVERSE)
            else:
                screen.addstr(row, 0, line)
    screen.refresh()
