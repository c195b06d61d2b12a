"""`airdraft coordinator|draft|target|up`: nodes in the foreground."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Awaitable, Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nodes.cli.gateway import announce as announce_api
from nodes.cli.gateway import gateway_config, is_installed, stop_limit_s
from nodes.cli.options import keys_option
from nodes.cli.progress import Progress
from nodes.cli.run import engine_options, settings_of, status_of
from nodes.client import Client
from nodes.config import (
    LOOPBACK_ENDPOINT,
    CoordinatorConfig,
    DraftConfig,
    EngineSettings,
    LimitSettings,
    TargetConfig,
    environment,
    load,
)
from nodes.coordinator.members.access import GATEWAY
from nodes.keyring import default_keyring
from nodes.local import local_mesh
from nodes.roles import endpoint_to_bind, run_coordinator, run_draft, run_target
from nodes.runtime import run, set_up_logging

if TYPE_CHECKING:
    from nodes.gateway.config import GatewayConfig

C = TypeVar("C")

_HTTP = "127.0.0.1:8080"

_config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Settings; the environment (AIRDRAFT_...) and options go before it.",
)
_verbose_option = click.option("-v", "--verbose", count=True, help="Log more.")


def _engine_overrides(function: Any) -> Any:
    for option in reversed(
        [
            click.option("--connect", metavar="ENDPOINT", help="The coordinator's endpoint."),
            keys_option,
            click.option("--name", help="The node's name in the mesh."),
            click.option(
                "--model",
                metavar="NAME|PATH",
                help="Catalogue name or GGUF file; replay:FILE.toml for an emulated node.",
            ),
            click.option("--model-dir", metavar="DIR", help="Where GGUF files must lie."),
            click.option("--model-sha256", metavar="HEX", help="What the model file must have."),
            click.option("--profile", type=click.Choice(["exact", "fast"])),
            click.option("--cells", type=int, help="Tokens the KV cache holds."),
            click.option("--max-streams", type=int, help="Streams at a time."),
            click.option("--threads", type=int, help="Engine threads."),
            click.option("--gpu-layers", type=int, help="Layers on the GPU; -1 for all."),
            click.option(
                "--prefix-cache-mb",
                type=int,
                help="Memory of a target for texts that have left its KV cache; 0 for none.",
            ),
            click.option("--supervised", is_flag=True, hidden=True),
        ]
    ):
        function = option(function)
    return function


def _overrides(values: dict[str, Any]) -> dict[str, Any]:
    engine = tuple(item.name for item in fields(EngineSettings))
    overrides = {f"engine.{name}": values[name] for name in engine}
    return overrides | {key: values[key] for key in ("connect", "keys", "name")}


def _start(config_class: type[C], values: dict[str, Any], serve: Callable[..., Any]) -> None:
    """Load a node's config and run it; a supervised node reports progress as lines."""
    set_up_logging(values["verbose"])
    config = load(config_class, values["config"], _overrides(values))
    supervised = values["supervised"]
    with Progress() as bar:
        progress = _progress_lines if supervised else bar
        code = run(lambda: serve(config, supervised=supervised, progress=progress), is_service=True)
    if code:
        sys.exit(code)


def _progress_lines(label: str, done: int, total: int | None) -> None:
    print(
        f"progress: {label} {done} {'-' if total is None else total}", file=sys.stderr, flush=True
    )


@click.command("target")
@_config_option
@_engine_overrides
@_verbose_option
def target_command(**values: Any) -> None:
    """Run a target node: it verifies guesses and decodes.

    \b
    Example:
      airdraft target --model smollm2-135m
    """
    _start(TargetConfig, values, run_target)


@click.command("draft")
@_config_option
@_engine_overrides
@_verbose_option
def draft_command(**values: Any) -> None:
    """Run a draft node: it guesses tokens for a target to verify.

    \b
    Example:
      airdraft draft --model smollm2-draft
    """
    _start(DraftConfig, values, run_draft)


_LISTEN = (
    "Where clients and nodes connect.  [default: a socket that only this user can reach, or "
    f"{LOOPBACK_ENDPOINT} with keys]"
)
_LIMITS = {
    "max_requests": "Requests of one client at a time.",
    "max_waiting": "Streams of clients that may wait for a place.",
    "max_gateway_requests": "Requests of one gateway at a time.",
    "max_gateway_waiting": "Streams of gateways that may wait.",
    "max_request_s": "Seconds within which a request is done or ended.",
}


def _limit_options(function: Any) -> Any:
    """What a coordinator takes in."""
    for name, text in reversed(_LIMITS.items()):
        kind = float if name.endswith("_s") else int
        option = click.option("--" + name.replace("_", "-"), type=kind, help=text)
        function = option(function)
    return function


@click.command("coordinator")
@_config_option
@click.option("--listen", metavar="ENDPOINT", help=_LISTEN)
@click.option("--cluster", help="Name of the mesh.")
@keys_option
@_limit_options
@_verbose_option
def coordinator_command(**values: Any) -> None:
    """Run the coordinator: nodes and clients connect to it.

    \b
    Example:
      airdraft coordinator
    """
    set_up_logging(values["verbose"])
    overrides = {key: values[key] for key in ("listen", "cluster", "keys")}
    overrides |= {f"limits.{name}": values[name] for name in _LIMITS}
    config = load(CoordinatorConfig, values["config"], overrides)
    code = run(lambda: run_coordinator(config, _announce), is_service=True)
    if code:
        sys.exit(code)


def _announce(endpoint: str) -> None:
    click.echo(f"listening on {endpoint}")


@click.command("up")
@engine_options
@click.option(
    "--listen",
    default="",
    metavar="ENDPOINT",
    help=_LISTEN,
)
@click.option("--max-streams", type=click.IntRange(1, 255), default=16, show_default=True)
@click.option(
    "--http",
    metavar="HOST:PORT|off",
    help=f"Where to serve the OpenAI HTTP API.  [default: {_HTTP}, if its extra is installed]",
)
@_limit_options
def up_command(**values: Any) -> None:
    """Run a whole mesh on this machine in the foreground, until Ctrl-C.

    \b
    Example:
      airdraft up --model smollm2-135m
      airdraft generate --prompt "Why is the sky blue?"
      curl http://127.0.0.1:8080/v1/models
    """
    set_up_logging(values["verbose"])
    http = _http_config(values["http"])
    given = {name: values[name] for name in _LIMITS if values[name] is not None}
    limits = LimitSettings(**given)
    target, draft, lookup = settings_of(values, values["max_streams"])
    serve: Callable[[], Awaitable[None]] = functools.partial(
        _up, target, draft, lookup=lookup, listen=values["listen"], limits=limits, http=http
    )
    code = run(serve, is_service=True, stop_limit_s=stop_limit_s(http))
    if code:
        sys.exit(code)


def _http_config(listen: str | None) -> GatewayConfig | None:
    """Where to serve the API; None for nowhere."""
    if listen == "off" or (listen is None and not is_installed()):
        return None
    return gateway_config(None, {"listen": listen or _HTTP})


async def _up(
    target: EngineSettings,
    draft: EngineSettings | None,
    *,
    lookup: bool,
    listen: str,
    limits: LimitSettings,
    http: GatewayConfig | None,
) -> None:
    with Progress() as progress:
        status = status_of(progress)
        local = local_mesh(
            target,
            draft,
            lookup=lookup,
            listen=endpoint_to_bind(default_keyring(environment()), listen),
            limits=limits,
            role="client" if http is None else GATEWAY,
            status=status,
        )
        async with local as (mesh, client):
            progress.clear()
            _announce(mesh.endpoint)
            await mesh.beside(_served(client, http))


async def _served(client: Client, http: GatewayConfig | None) -> None:
    if http is None:
        await asyncio.Event().wait()
        return
    from nodes.gateway.role import serve_beside

    await serve_beside(client, http, announce_api)
