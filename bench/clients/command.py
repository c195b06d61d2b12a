"""`python -m bench clients`."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

import click

from bench.harness.up import up
from bench.options import model_file

_SCRIPTS: Final = Path(__file__).with_name("scripts")
# Environments of clients, found again by the next run.
_ENVIRONMENTS: Final = Path("build", "clients")
_LIMIT_S: Final = 600

# What pip installs for each script, in an environment of its own.
_CLIENTS: Final = {
    "lang_chain": "langchain-openai",
    "pydantic_agent": "pydantic-ai-slim[openai]",
    "anthropic_client": "anthropic",
    "home_assistant": "openai",
    "aider_edit": "aider-chat",
}


@click.command("clients")
@click.option("--model", default="qwen2.5-coder-1.5b", help="Of the mesh: a name or a GGUF file.")
def clients_command(model: str) -> None:
    """Everyday clients with their own packages: chats, tools, typed output, an edit.

    They are installed from a package registry into build/clients.

    \b
    Example:
      python -m bench clients
    """
    # A file's path is no name of a model in the API.
    served = model_file(model).name
    is_right = True
    pythons = {script: _installed(script, what) for script, what in _CLIENTS.items()}
    with up("--model", model) as mesh:
        for script, python in pythons.items():
            done = subprocess.run(
                [python, str(_SCRIPTS / f"{script}.py"), mesh.url, served],
                capture_output=True,
                text=True,
                timeout=_LIMIT_S,
                check=False,
            )
            lines = done.stdout.strip().splitlines()
            if done.returncode:
                is_right = False
                lines += done.stderr.strip().splitlines()[-1:]
            click.echo(_version(python, _CLIENTS[script].partition("[")[0]))
            click.echo("".join(f"  {line}\n" for line in lines), nl=False)
    sys.exit(not is_right)


def _installed(script: str, requirement: str) -> str:
    """Returns the Python of an environment that has a client. Raises ClickException."""
    folder = _ENVIRONMENTS.absolute() / script
    python = str(folder / "bin" / "python")
    if not Path(python).exists():
        venv.create(folder, with_pip=True)
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", requirement], capture_output=True, text=True
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise click.ClickException(f"{requirement} cannot be installed: {reason}")
    return python


def _version(python: str, package: str) -> str:
    code = "import sys, importlib.metadata as m; print(sys.argv[1], m.version(sys.argv[1]))"
    done = subprocess.run([python, "-c", code, package], capture_output=True, text=True)
    return done.stdout.strip() or package
