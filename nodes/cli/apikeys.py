"""`airdraft apikeys ...`: manage the API keys of the gateway."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from airdraft.nodes.cli.options import keys_option
from airdraft.nodes.gateway.apikeys import FILE_NAME, SCOPES, ApiKey, ApiKeys, digest, new_key
from airdraft.nodes.service.roles import keyring

F = TypeVar("F", bound=Callable[..., Any])

_file_option = click.option(
    "--apikeys",
    "path",
    metavar="FILE",
    help="File of API keys.  [default: apikeys.toml beside the keys]",
)


def _store(path: str | None, keys: str | None) -> ApiKeys:
    return ApiKeys(Path(path) if path else keyring(keys).directory / FILE_NAME)


def _limit(name: str, what: str) -> Callable[[F], F]:
    return click.option(name, type=click.IntRange(1, 1 << 20), default=None, help=what)


@click.group("apikeys")
def apikeys_group() -> None:
    """Manage API keys of the gateway. A running gateway applies changes at the next request.

    \b
    Example:
      airdraft apikeys add laptop
      curl -H "Authorization: Bearer ad-..." http://10.0.0.1:8080/v1/models
    """


@apikeys_group.command("add")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    default=("infer",),
    show_default=True,
    help="What the key may be used for; repeatable.",
)
@_limit("--max-concurrent", "Maximum number of requests at a time.  [default: the gateway's]")
@_limit("--max-tokens", "Maximum number of tokens of a choice.  [default: the gateway's]")
@_limit("--max-choices", "Maximum number of choices of a request.  [default: the gateway's]")
@_file_option
@keys_option
def add_command(
    name: str, scopes: tuple[str, ...], path: str | None, keys: str | None, **limits: int | None
) -> None:
    """Create a key and print it. It cannot be shown again later.

    \b
    Example:
      airdraft apikeys add laptop --max-concurrent 4
    """
    key = new_key()
    given = {limit: value for limit, value in limits.items() if value is not None}
    unique = tuple(dict.fromkeys(scopes))
    _store(path, keys).add(ApiKey(name=name, sha256=digest(key), scopes=unique, **given))
    click.echo(key)


@apikeys_group.command("list")
@_file_option
@keys_option
def list_command(path: str | None, keys: str | None) -> None:
    """List the names, scopes and limits of all keys.

    \b
    Example:
      airdraft apikeys list
    """
    entries = _store(path, keys).all()
    if not entries:
        click.echo("no keys: `airdraft apikeys add NAME` makes one", err=True)
    for entry in entries:
        limits = {
            "concurrent": entry.max_concurrent,
            "tokens": entry.max_tokens,
            "choices": entry.max_choices,
        }
        shown = "".join(f"  {what} <= {value}" for what, value in limits.items() if value)
        click.echo(f"{entry.name}  {', '.join(entry.scopes)}{shown}")


@apikeys_group.command("remove")
@click.argument("name")
@_file_option
@keys_option
def remove_command(name: str, path: str | None, keys: str | None) -> None:
    """Remove a key.

    \b
    Example:
      airdraft apikeys remove laptop
    """
    _store(path, keys).remove(name)
    click.echo(f"{name} may no longer use the gateway")
