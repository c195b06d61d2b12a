"""`airdraft serve`: runs a whole mesh on this machine and restarts nodes that end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from airdraft.mesh.endpoints import ipc_path, listens, on_this_machine
from airdraft.mesh.errors import AddressInUseError
from airdraft.nodes.catalog.hub import name_of
from airdraft.nodes.cli.gateway import announce as announce_api
from airdraft.nodes.cli.gateway import api_key_option, gateway_config, stop_limit_s
from airdraft.nodes.cli.node import announce, listen_option
from airdraft.nodes.cli.options import (
    across_options,
    config_option,
    given_settings,
    max_streams_option,
    one_model,
    setting,
)
from airdraft.nodes.cli.progress import Progress
from airdraft.nodes.cli.run import engine_options, engines_of
from airdraft.nodes.cli.running import in_background
from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.config.settings import ServeConfig
from airdraft.nodes.config.sources import load
from airdraft.nodes.doctor.machine import is_free
from airdraft.nodes.messages.access import GATEWAY
from airdraft.nodes.service.local import local_mesh
from airdraft.nodes.service.roles import endpoint_to_bind, keyring
from airdraft.nodes.service.running import RunFile, Running, all_running, registered
from airdraft.nodes.service.runtime import raise_file_limit, run_to_end, set_up_logging

if TYPE_CHECKING:
    from airdraft.nodes.gateway.config import GatewayConfig


# What `airdraft ps` lists and has an endpoint of its own.
_MESHES: Final = ("serve", "coordinator")


@click.command("serve")
@click.argument("name", metavar="[MODEL]", required=False)
@engine_options
@click.option(
    "-hf",
    "--hf-repo",
    metavar="OWNER/REPO[@REVISION][:QUANT]",
    help="Target model from Hugging Face. REVISION is a commit, tag or branch, and `main` if left "
    "out. QUANT selects one of several files and is Q4_K_M if left out.",
)
@setting(ServeConfig, "host", "Host to serve HTTP at.")
@setting(ServeConfig, "port", "Port to serve HTTP at; 0 means any that is free.")
@click.option(
    "--no-http", "http", flag_value=False, default=None, help="Serve the commands of airdraft only."
)
@api_key_option
@listen_option
@across_options(ServeConfig)
@max_streams_option(ServeConfig)
@click.option(
    "--no-lookup",
    "prompt_lookup",
    flag_value=False,
    default=None,
    help="Do not guess by looking up what the text repeats.",
)
@click.option(
    "--background", is_flag=True, help="Return when the mesh serves; `airdraft stop` ends it."
)
@click.option("--log", default="", hidden=True)
@config_option
def serve_command(name: str | None, hf_repo: str | None, **values: Any) -> None:
    """Run a whole mesh on this machine, and serve it over HTTP, until Ctrl-C or `airdraft stop`.

    The model is pulled if it is not on this machine, and so is the draft for it. Nodes that end are
    restarted. `airdraft up` is the same command.

    \b
    Examples:
      airdraft serve qwen2.5-coder-1.5b --background
      airdraft serve -m my-target.gguf -md my-draft.gguf -c 16384 --port 8000
      airdraft serve -hf Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0 --host 0.0.0.0 --api-key KEY
    """
    values["model"] = one_model(name, values["model"], name_of(hf_repo) if hf_repo else None)
    set_up_logging(values["verbose"])
    raise_file_limit()
    config = load(ServeConfig, values["config"], given_settings(ServeConfig, values))
    ring = keyring(config.keys)
    # Fetching and loading models takes long, so a taken address is reported before.
    _check_free(ring.listen(config.listen))
    http = bound = None
    if config.http:
        host = f"[{config.host}]" if ":" in config.host else config.host
        given = {"listen": f"{host}:{config.port}", "api_key": values["api_key"]}
        http = gateway_config(None, {**given, "keys": config.keys})
        from airdraft.nodes.gateway.config import reserve

        bound = reserve(http, keyring(http.keys).directory)
    if values["background"]:
        # What is missing is pulled here, where the progress is seen.
        engines_of(config)
        if bound is not None:
            bound.close()
        _say(in_background([word for word in sys.argv[2:] if word != "--background"]))
        return
    listed = Running(
        "serve",
        name=config.cluster,
        model=config.engine.model,
        endpoint=on_this_machine(ring.listen(config.listen)),
        log=values["log"],
        stop_limit_s=stop_limit_s(http),
    )
    with registered(listed) as file:
        target, draft = engines_of(config)

        async def serve() -> None:
            with Progress() as progress:

                def tell(line: str) -> None:
                    progress.clear()
                    # A closed standard error must not end the mesh.
                    with contextlib.suppress(OSError):
                        click.echo(line, err=True)

                local = local_mesh(
                    target,
                    draft,
                    listen=endpoint_to_bind(ring, config.listen),
                    config=config,
                    role="client" if http is None else GATEWAY,
                    progress=progress,
                    restarts=True,
                    tell=tell,
                )
                async with local as (mesh, client):
                    progress.clear()
                    announce(mesh.endpoint)
                    if room := await _room(client):
                        tell(room)
                    file.change(endpoint=mesh.endpoint, is_ready=http is None)
                    await mesh.beside(_served(client, http, bound, file))

        run_to_end(serve, is_service=True, stop_limit_s=stop_limit_s(http))


def _say(running: Running) -> None:
    """Tell of a mesh that runs in the background."""
    click.echo(f"listening on {running.endpoint}")
    if running.url:
        click.echo(f"OpenAI API at {running.url}")
    click.echo(f"pid {running.pid}, log {running.log}; `airdraft stop` ends it")


def _check_free(listen: str) -> None:
    """Raises ClickException if a mesh is at this endpoint, or anything else is."""
    there = on_this_machine(listen)
    meshes = {each.endpoint: each for each in all_running() if each.role in _MESHES}
    # A port that the system chooses is never taken.
    running = None if there.endswith((":*", ":0")) else meshes.get(there)
    path = ipc_path(listen)
    if running is not None or (path is not None and listens(path)):
        at = f"{there} (pid {running.pid})" if running is not None else there
        raise click.ClickException(
            f"a mesh already runs on this machine, at {at}: use it (`airdraft nodes list` "
            f"lists its nodes, `airdraft gateway` serves it), stop it, or give another --listen"
        )
    if not is_free(listen):
        raise AddressInUseError(listen)


async def _room(client: MeshClient) -> str:
    """Returns a line that says how long texts can be; "" if the target is gone already."""
    nodes = (await client.status()).nodes
    target = next((node for node in nodes if node.role == "target"), None)
    if target is None:
        return ""
    return (
        f"{target.model}: one text can have {target.max_length} tokens, and all texts at a time "
        f"{target.num_cells}"
    )


async def _served(
    client: MeshClient, http: GatewayConfig | None, bound: socket.socket | None, file: RunFile
) -> None:
    if http is None or bound is None:
        await asyncio.Event().wait()
        return
    from airdraft.nodes.gateway.server import serve_beside

    def on_bound(url: str) -> None:
        announce_api(url)
        file.change(url=url, is_ready=True)

    await serve_beside(client, http, bound, on_bound)
