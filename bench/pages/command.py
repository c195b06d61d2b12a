"""`python -m bench pages`: the generated parts of docs/reference."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import click

from bench.pages.markdown import PageError, Part, with_parts

FOLDER: Final = Path(__file__).parents[2] / "docs" / "reference"


def _pages() -> Mapping[str, Mapping[str, Part]]:
    """Page -> name -> what generates the part of this name."""
    from airdraft.nodes.telemetry.metrics import gateway, mesh
    from bench.pages import commands, http_api, library, observed, protocol, settings

    return {
        "commands.md": {"commands": commands.commands},
        "settings.md": {role: partial(settings.settings, role) for role in settings.ROLES},
        "http-api.md": {"routes": http_api.routes, **http_api.BODIES},
        "python-library.md": {
            "calls": partial(library.described, library.CALLS),
            "options": library.options,
            "answers": partial(library.described, library.ANSWERS),
            "errors": library.errors,
        },
        "metrics-and-status.md": {
            "metrics of the mesh": partial(observed.metrics, mesh.METRICS),
            "metrics of the gateway": partial(observed.metrics, gateway.METRICS),
            "status": observed.status_fields,
        },
        "trace.md": {"records": observed.trace_records},
        "protocol.md": {"messages": protocol.messages, "fields": protocol.fields},
    }


def outdated(folder: Path = FOLDER) -> Iterator[tuple[Path, str]]:
    """The pages that are not as the code says, each with its text as it should be."""
    for name, parts in _pages().items():
        path = folder / name
        text = path.read_text(encoding="utf-8")
        try:
            made = with_parts(text, parts)
        except PageError as error:
            raise PageError(f"{path}: {error}") from None
        if made != text:
            yield path, made


@click.command("pages")
@click.option("--check", is_flag=True, help="Write nothing; name the pages that are out of date.")
def pages_command(check: bool) -> None:
    """Write what the code declares into the pages of docs/reference, between their markers.

    \b
    Example:
      python -m bench pages --check
    """
    try:
        found = list(outdated())
    except (OSError, PageError) as error:
        raise click.ClickException(str(error)) from error
    for path, text in found:
        if check:
            click.echo(f"{path} is out of date: run `python -m bench pages`")
        else:
            path.write_text(text, encoding="utf-8")
            click.echo(f"{path} is written")
    sys.exit(1 if check and found else 0)
