"""`airdraft gateway`: serves the HTTP API of a running mesh."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from airdraft.nodes.cli.options import config_option, mesh_options
from airdraft.nodes.config.settings import HTTP_HOST, HTTP_PORT
from airdraft.nodes.config.sources import load
from airdraft.nodes.service.running import Running, registered
from airdraft.nodes.service.runtime import STOP_LIMIT_S, print_line, run_to_end, set_up_logging

if TYPE_CHECKING:
    from airdraft.nodes.gateway.config import GatewayConfig

api_key_option = click.option(
    "--api-key",
    metavar="KEY",
    help="Key that clients must send. Other users of this machine can see it on the command line; "
    "the environment variable AIRDRAFT_API_KEY avoids that.",
)


@click.command("gateway")
@config_option
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help=f"Address to serve at.  [default: {HTTP_HOST}:{HTTP_PORT}]",
)
@mesh_options
@api_key_option
@click.option("--tls-cert", metavar="FILE", help="PEM certificate chain; needs --tls-key.")
@click.option("--tls-key", metavar="FILE", help="PEM private key of the certificate.")
@click.option("-v", "--verbose", count=True, help="Log more; -v logs a line per request.")
def gateway_command(config: Path | None, verbose: int, **values: Any) -> None:
    """Serve the HTTP API of a running mesh, for clients of OpenAI and Anthropic.

    \b
    Examples:
      airdraft gateway
      airdraft apikeys add laptop
      airdraft gateway --listen 0.0.0.0:8080 --tls-cert chain.pem --tls-key key.pem
    """
    set_up_logging(verbose)
    settings = gateway_config(config, values)
    from airdraft.nodes.gateway.server import run_gateway

    limit_s = stop_limit_s(settings)
    with registered(Running("gateway", stop_limit_s=limit_s)) as file:

        def on_bound(url: str) -> None:
            file.change(url=url, is_ready=True)
            announce(url)

        run_to_end(lambda: run_gateway(settings, on_bound), is_service=True, stop_limit_s=limit_s)


def stop_limit_s(config: GatewayConfig | None) -> float:
    """Seconds that a process with this gateway has to stop, the time of its streams included."""
    return STOP_LIMIT_S if config is None else STOP_LIMIT_S + config.limits.stop_timeout_s


def announce(url: str) -> None:
    print_line(f"OpenAI API at {url}")


def gateway_config(path: Path | None, overrides: dict[str, Any]) -> GatewayConfig:
    """Loads the settings of a gateway. Raises ConfigError."""
    from airdraft.nodes.gateway.config import GatewayConfig

    return load(GatewayConfig, path, overrides)
