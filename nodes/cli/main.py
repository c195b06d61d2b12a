"""The command `airdraft`."""

import importlib.metadata
import platform
import sys
from importlib import import_module
from typing import Final

import click

from airdraft.mesh.zmq_transport import libzmq_version
from airdraft.nodes.config.sources import variable_of
from airdraft.nodes.engine.kernels.library import built_for
from airdraft.nodes.service.runtime import (
    hold_standard_files,
    let_go_of_stderr,
    print_error,
    report,
    set_engine_environment,
)

# Command -> module and variable. A module is imported only when its command is used. Without the
# imports of all others a node restarts one second sooner, on a small machine several.
_PLACES: Final = {
    "run": "run.run_command",
    "serve": "serve.serve_command",
    "ps": "running.ps_command",
    "stop": "running.stop_command",
    "generate": "generate.generate_command",
    "chat": "chat.terminal.chat_command",
    "coordinator": "node.coordinator_command",
    "draft": "node.draft_command",
    "target": "node.target_command",
    "stage": "stage.stage_command",
    "gateway": "gateway.gateway_command",
    "apikeys": "apikeys.apikeys_group",
    "models": "models.models",
    "nodes": "nodes.nodes_group",
    "plan": "plan.plan_command",
    "top": "top.top_command",
    "trace": "trace.trace_command",
    "keys": "keys.keys_group",
    "join": "keys.join_command",
    "doctor": "doctor.doctor_command",
    "install-units": "units.install_units_command",
}
_ALIASES: Final = {"up": "serve"}


def _setting(key: str) -> str:
    return f"set {variable_of(key)}, or {key} in the role's file of settings"


# Commands and options that are gone -> what to do instead. It is said when a command line that
# begins with the command and has the option is refused.
_REMOVED: Final = {
    "trace replan": "`airdraft plan SCENARIO.toml --policy NAME` plans a scenario",
    "keys rotate-coordinator": (
        "remove coordinator.key and coordinator.pub, run `airdraft keys init`, and invite each "
        "machine again"
    ),
    "completion": (
        "click prints the script, such as `_AIRDRAFT_COMPLETE=bash_source airdraft` (or zsh, fish)"
    ),
    "models join": (
        "`airdraft models pull hf:OWNER/REPO/FIRST-PART` joins the parts, and so does llama.cpp's "
        "`llama-gguf-split --merge FIRST-PART NEW-FILE`"
    ),
    "--http": "give --host and --port, or --no-http",
    "--cluster": _setting("cluster"),
    "--model-dir": "--model-sha256 says which file is accepted",
    "--prompt": 'the prompt is an argument: `airdraft run "Why is the sky blue?"`, or -',
    "--prompt-file": "give - and the file as standard input: `airdraft run - < FILE`",
    "install-units --dry-run": "give --root DIR and look there",
    "--max-requests": _setting("limits.max_requests"),
    "--max-waiting": _setting("limits.max_waiting"),
    "--max-gateway-requests": _setting("limits.max_gateway_requests"),
    "--max-gateway-waiting": _setting("limits.max_gateway_waiting"),
    "--max-request-s": _setting("limits.max_request_s"),
    "gateway --coordinator": "give --connect",
    "gateway --apikeys": _setting("apikeys"),
    "gateway --cors-origin": _setting("cors_origins"),
    "gateway --allowed-host": _setting("allowed_hosts"),
}


class _Lazy(click.Group):
    """Imports a command's module when the command is looked up."""

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        place = _PLACES.get(_ALIASES.get(name, name))
        if place is None:
            return None
        module, _, variable = place.rpartition(".")
        command = getattr(import_module(f"airdraft.nodes.cli.{module}"), variable)
        assert isinstance(command, click.Command)
        return command


# llama-cpp-python contains libllama; reading its version does not load the library.
_LIBRARIES = ("pyzmq", "msgpack", "numpy", "llama-cpp-python")


def distribution_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _show_version(context: click.Context, _parameter: click.Parameter, is_wanted: bool) -> None:
    if not is_wanted or context.resilient_parsing:
        return
    versions = {name: distribution_version(name) for name in _LIBRARIES}
    versions["pyzmq"] += f" (libzmq {libzmq_version()})"
    kernels = built_for()
    click.echo(
        f"airdraft {distribution_version('airdraft')}\n"
        f"Python {platform.python_version()}, {platform.system()} {platform.release()}, "
        f"{platform.machine()}"
    )
    for name, version in versions.items():
        click.echo(f"{name} {version}")
    click.echo(
        f"airdraft's kernels: {f'for llama-cpp-python {kernels}' if kernels else 'not built'}"
    )
    context.exit()


# Click lists and suggests the names of `commands`; the class imports the commands themselves.
@click.group(
    cls=_Lazy,
    commands=dict.fromkeys(_PLACES, click.Command(None)),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the versions of airdraft and its libraries.",
)
def cli() -> None:
    """Turn several edge devices into one private LLM endpoint.

    \b
    Example:
      airdraft run "Why is the sky blue?"
    """


def _removed(error: click.ClickException) -> str:
    """Return what to do instead of a command or option that is gone, if an error is about one."""
    if not isinstance(error, click.UsageError):
        return ""
    typed = {word.partition("=")[0] for word in sys.argv[1:]}
    if isinstance(error, click.NoSuchOption):
        # It may come of a file of options.
        typed.add(error.option_name)
    for words, says in _REMOVED.items():
        commands = [word for word in words.split() if not word.startswith("-")]
        if typed.issuperset(words.split()) and sys.argv[1 : 1 + len(commands)] == commands:
            return f"airdraft has no {words} any more: {says}"
    return ""


def main() -> None:
    hold_standard_files()
    set_engine_environment()
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        # Its message is the whole help.
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        # One line with what, where and what to do; click's own form takes three lines.
        print_error(_removed(error) or " ".join(error.format_message().split()))
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001 - report() turns it into a line and an exit code
        sys.exit(report(error))
    finally:
        let_go_of_stderr()
