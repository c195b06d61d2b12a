"""`airdraft --version`: shows the versions of this program and its libraries."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable

import click

from mesh.zmq_transport import libzmq_version
from nodes.engine.kernels.library import built_for

# llama-cpp-python contains libllama; reading its version does not load the library.
_LIBRARIES = ("pyzmq", "msgpack", "numpy", "llama-cpp-python")


def distribution_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def version_text(version_of: Callable[[str], str] = distribution_version) -> str:
    versions = {name: version_of(name) for name in _LIBRARIES}
    kernels = built_for()
    versions["pyzmq"] += f" (libzmq {libzmq_version()})"
    lines = [
        f"airdraft {version_of('airdraft')}",
        f"Python {platform.python_version()}, {platform.system()} {platform.release()}, "
        f"{platform.machine()}",
        *(f"{name} {version}" for name, version in versions.items()),
        f"airdraft's kernels: {f'for llama-cpp-python {kernels}' if kernels else 'not built'}",
    ]
    return "\n".join(lines)


def _show(context: click.Context, _parameter: click.Parameter, is_wanted: bool) -> None:
    if is_wanted and not context.resilient_parsing:
        click.echo(version_text())
        context.exit()


version_option = click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show,
    help="Show the versions of airdraft and its libraries.",
)
