"""`airdraft serve`: runs a whole mesh on this machine and restarts nodes that end."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from airdraft.mesh.endpoints import ipc_path, listens
from airdraft.nodes.catalog.hub import name_of
from airdraft.nodes.cli.gateway import announce as announce_api
from airdraft.nodes.cli.gateway import api_key_option, gateway_config, stop_limit_s
from airdraft.nodes.cli.node import announce, listen_option
from airdraft.nodes.cli.options import FILE
from airdraft.nodes.cli.progress import Progress
from airdraft.nodes.cli.run import engine_options, settings_of
from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.config.settings import CoordinatorConfig, load, read_toml
from airdraft.nodes.messages.access import GATEWAY
from airdraft.nodes.service.local import local_mesh
from airdraft.nodes.service.roles import endpoint_to_bind, keyring
from airdraft.nodes.service.runtime import raise_file_limit, run_to_end, set_up_logging

if TYPE_CHECKING:
    from airdraft.nodes.gateway.config import GatewayConfig


def _use_as_defaults(context: click.Context, _option: click.Parameter, path: Path | None) -> None:
    """Use the options in a file as the defaults of the command line."""
    if path is None:
        return
    options = {
        str(option.name): option
        for option in context.command.params
        if isinstance(option, click.Option) and option.name != "config"
    }
    defaults = {}
    for key, value in read_toml(path).items():
        name = key.replace("-", "_")
        if name not in options:
            near = [each.replace("_", "-") for each in difflib.get_close_matches(name, options, 1)]
            raise click.NoSuchOption(f"--{key}", f"{path}: there is no option {key!r}.", near)
        if options[name].is_flag != isinstance(value, bool) or isinstance(value, dict | list):
            accepted = "true or false" if options[name].is_flag else "a string or a number"
            raise click.BadParameter(f"{path}: {key} must be {accepted}")
        # As on the command line, where 3.7 is no whole number.
        defaults[name] = str(value)
    context.default_map = defaults


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
@click.option("--host", default="127.0.0.1", show_default=True, help="Host to serve HTTP at.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8080, show_default=True)
@click.option("--no-http", is_flag=True, help="Serve the commands of airdraft only.")
@api_key_option
@listen_option
@click.option("--max-streams", type=click.IntRange(1, 255), default=16, show_default=True)
@click.option(
    "--config",
    type=FILE,
    metavar="FILE.toml",
    is_eager=True,
    expose_value=False,
    callback=_use_as_defaults,
    help='Options by their long names, such as `model = "..."`. The command line overrides them.',
)
def serve_command(name: str | None, hf_repo: str | None, **values: Any) -> None:
    """Run a whole mesh on this machine in the foreground, and serve it over HTTP, until Ctrl-C.

    The model is pulled if it is not on this machine, and so is the draft for it. Nodes that end are
    restarted. `airdraft up` is the same command.

    \b
    Examples:
      airdraft serve qwen2.5-coder-1.5b
      airdraft serve -m my-target.gguf -md my-draft.gguf -c 16384 --port 8000
      airdraft serve -hf Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0 --host 0.0.0.0 --api-key KEY
    """
    values["model"] = _model_of(name, values["model"], hf_repo)
    set_up_logging(values["verbose"])
    raise_file_limit()
    config = load(CoordinatorConfig, None, {"listen": values["listen"] or ""})
    # Fetching and loading models takes long, so a taken address is reported before.
    _check_free(keyring().listen(config.listen))
    http = bound = None
    if not values["no_http"]:
        host = f"[{values['host']}]" if ":" in values["host"] else values["host"]
        address = f"{host}:{values['port']}"
        http = gateway_config(None, {"listen": address, "api_key": values["api_key"]})
        from airdraft.nodes.gateway.config import reserve

        bound = reserve(http, keyring(http.keys).directory)
    target, draft, lookup = settings_of(values, values["max_streams"])

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
                lookup=lookup,
                listen=endpoint_to_bind(keyring(), config.listen),
                config=config,
                role="client" if http is None else GATEWAY,
                progress=progress,
                restarts=True,
                tell=tell,
            )
            async with local as (mesh, client):
                progress.clear()
                announce(mesh.endpoint)
                await mesh.beside(_served(client, http, bound))

    run_to_end(serve, is_service=True, stop_limit_s=stop_limit_s(http))


def _model_of(name: str | None, model: str, hf_repo: str | None) -> str:
    """Return the one model that is named. Raises UsageError if several are on the command line."""
    named = model if _is_typed("model") else None
    if (name or named) and not _is_typed("hf_repo"):
        # That of the file given by --config.
        hf_repo = None
    given = [each for each in (name, hf_repo, named) if each]
    if len(set(given)) > 1:
        raise click.UsageError(f"{' and '.join(given)}: give one of MODEL, --model and --hf-repo")
    if hf_repo:
        return name_of(hf_repo)
    return given[0] if given else model


def _is_typed(parameter: str) -> bool:
    """Whether a parameter is on the command line, not only in the file given by --config."""
    source = click.get_current_context().get_parameter_source(parameter)
    return source not in (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)


def _check_free(listen: str) -> None:
    """Raises ClickException if a coordinator listens at this socket file."""
    path = ipc_path(listen)
    if path is not None and listens(path):
        raise click.ClickException(
            f"a mesh already runs on this machine, at {listen}: use it (`airdraft nodes list` "
            f"lists its nodes, `airdraft gateway` serves it), stop it, or give another --listen"
        )


async def _served(
    client: MeshClient, http: GatewayConfig | None, bound: socket.socket | None
) -> None:
    if http is None or bound is None:
        await asyncio.Event().wait()
        return
    from airdraft.nodes.gateway.server import serve_beside

    await serve_beside(client, http, bound, announce_api)
