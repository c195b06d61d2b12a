"""The table of faults that were found before, each with the command that repeats it."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

_TABLE = Path(__file__).with_name("seeds.toml")


@dataclass(frozen=True, slots=True)
class Entry:
    """A fault. command: arguments of `python -m bench chaos`. was: what went wrong."""

    command: tuple[str, ...]
    was: str


def entries(path: Path = _TABLE) -> list[Entry]:
    """Read the table."""
    table = tomllib.loads(path.read_text())
    return [Entry(tuple(item["command"]), item["was"]) for item in table["seed"]]


def run_again(group: click.Group, wanted: Sequence[Entry]) -> list[Entry]:
    """Run the commands of entries one after another; return those that went wrong again."""
    wrong = []
    for entry in wanted:
        click.echo(f"{' '.join(entry.command)}\n  {entry.was}", err=True)
        try:
            group.main(args=list(entry.command), prog_name="chaos", standalone_mode=False)
        except SystemExit as ended:
            if ended.code:
                wrong.append(entry)
    return wrong
