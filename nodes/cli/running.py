"""`airdraft serve --background`, `ps` and `stop`: processes that outlive their terminal."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from airdraft.nodes.cli.cells import Column, table
from airdraft.nodes.config.sources import environment
from airdraft.nodes.service import supervision
from airdraft.nodes.service.running import Running, all_running, run_folder, stop
from airdraft.nodes.service.runtime import print_error

_POLL_S: Final = 0.05
# A mesh logs a few lines a day, if all is well.
_LONG_LOG_BYTES: Final = 1 << 20
_MOST_CELLS: Final = 1 << 16
_COLUMNS: Final = [
    Column(head, _MOST_CELLS) for head in ("pid", "role", "name", "model", "address", "since")
]


def in_background(arguments: Sequence[str]) -> Running:
    """Start `airdraft serve` in a session of its own, and wait until it serves.

    If it ends before, this process prints its last line of error and exits with its code.
    """
    if run_folder() is None:
        raise click.UsageError("--background is not for a service: its manager starts it")
    log = _log_file()
    command = [sys.executable, "-P", "-m", supervision.program, "serve", "--log", str(log)]
    with open(log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        begins_at = file.tell()
        process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        while (code := process.poll()) is None:
            for running in all_running():
                if running.pid == process.pid and running.is_ready:
                    return running
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        process.terminate()
        raise
    with log.open("rb") as file:
        file.seek(begins_at)
        lines = file.read().decode(errors="replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    print_error((errors or [f"it ended; {log} may say why"])[-1])
    # The number of a signal is below 0.
    sys.exit(max(code, 1))


def _log_file() -> Path:
    """Returns the log in the user's folder of states, which is made. A long log is put aside."""
    state = environment().get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    (base / "airdraft").mkdir(mode=0o700, parents=True, exist_ok=True)
    log = base / "airdraft" / "serve.log"
    if log.exists() and log.stat().st_size > _LONG_LOG_BYTES:
        log.replace(log.with_name("serve.log.old"))
    return log


@click.command("ps")
def ps_command() -> None:
    """List the meshes and nodes that you run on this machine.

    Nodes that `airdraft serve` has started are part of its mesh: `airdraft nodes list` lists them.

    \b
    Example:
      airdraft ps
    """
    rows = [
        (
            str(each.pid),
            each.role,
            each.name,
            each.model,
            (each.url or each.endpoint) if each.is_ready else "starting",
            each.since,
        )
        for each in all_running()
    ]
    if rows:
        click.echo("\n".join(table(_COLUMNS, rows, len(_COLUMNS) * _MOST_CELLS)))
    else:
        click.echo("nothing runs: start a mesh with `airdraft serve`", err=True)


@click.command("stop")
@click.argument("which", metavar="[NAME|PID]", required=False)
def stop_command(which: str | None) -> None:
    """Stop the mesh that runs in the background, or what `airdraft ps` lists by a name or pid.

    Requests that are under way have the time to end that the settings give them.

    \b
    Examples:
      airdraft stop
      airdraft stop 4711
    """
    found = [
        each
        for each in all_running()
        if (each.log if which is None else which in (each.name, str(each.pid)))
    ]
    if not found:
        what = "nothing runs in the background" if which is None else f"no {which!r} runs"
        raise click.ClickException(f"{what}: `airdraft ps` lists what you run on this machine")
    if len(found) > 1:
        pids = " and ".join(str(each.pid) for each in found)
        raise click.UsageError(f"{pids} run: give the pid of one of them")
    (running,) = found
    if not stop(running):
        raise click.ClickException(
            f"{running.role} {running.pid} did not end within {running.stop_limit_s:g} s: "
            f"`kill -KILL {running.pid}` ends it at once"
        )
    click.echo(f"stopped {running.role} {running.name} (pid {running.pid})".replace("  ", " "))
