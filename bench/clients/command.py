"""`python -m bench clients`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

_FOLDER: Final = Path(__file__).with_name("scripts")
_LIMIT_S: Final = 600


@dataclass(frozen=True, slots=True)
class _Client:
    """packages: what pip installs for it; the first is the one whose version is told. place: the
    environment that it shares with others of the same."""

    script: str
    packages: tuple[str, ...]
    place: str = "shared"


_CLIENTS: Final = (
    _Client("lang_chain", ("langchain-openai",)),
    _Client("lite_llm", ("litellm",)),
    _Client("pydantic_agent", ("pydantic-ai-slim[openai]",)),
    _Client("openai_agents", ("openai-agents",)),
    _Client("anthropic_client", ("anthropic",)),
    _Client("llm_command", ("llm",)),
    _Client("home_assistant", ("openai",)),
    # It asks for one version of each of its hundred packages.
    _Client("aider_edit", ("aider-chat",), place="aider"),
)
_PLACES: Final = tuple(dict.fromkeys(client.place for client in _CLIENTS))


@click.command("clients")
@click.option("--model", default="qwen2.5-coder-1.5b", help="Of the mesh.")
@click.option(
    "--environment",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the clients are installed, and found again; default a folder that goes.",
)
def clients_command(model: str, environment: Path | None) -> None:
    """Everyday clients with their own packages: chats, tools, typed output, an edit.

    Needs a package registry.

    \b
    Example:
      python -m bench clients --environment build/clients
    """
    from bench.harness.up import up
    from nodes.catalog import Catalog, default_cache_dir
    from nodes.config.settings import environment as environ

    Catalog(default_cache_dir(environ())).ensure(model)
    is_right = True
    with tempfile.TemporaryDirectory(prefix="airdraft-clients-") as name:
        folder = environment or Path(name)
        pythons = {place: _installed(folder / place, place) for place in _PLACES}
        with up("--model", model) as mesh:
            for client in _CLIENTS:
                python = pythons[client.place]
                package = client.packages[0].partition("[")[0]
                done = subprocess.run(
                    [python, str(_FOLDER / f"{client.script}.py"), mesh.url, model],
                    capture_output=True,
                    text=True,
                    timeout=_LIMIT_S,
                    check=False,
                )
                lines = done.stdout.strip().splitlines()
                if done.returncode:
                    is_right = False
                    lines += done.stderr.strip().splitlines()[-1:]
                click.echo(f"{package} {_version(python, package)}")
                click.echo("".join(f"  {line}\n" for line in lines), nl=False)
    sys.exit(not is_right)


def _installed(folder: Path, place: str) -> str:
    """The Python of an environment that has all clients of a place."""
    python = str(folder / "bin" / "python")
    if not Path(python).exists():
        venv.create(folder, with_pip=True)
    clients = [client for client in _CLIENTS if client.place == place]
    packages = [package for client in clients for package in client.packages]
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", *packages], capture_output=True, text=True
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise click.ClickException(f"the clients cannot be installed: {reason}")
    return python


def _version(python: str, package: str) -> str:
    code = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"
    done = subprocess.run([python, "-c", code, package], capture_output=True, text=True)
    return done.stdout.strip() or "?"
