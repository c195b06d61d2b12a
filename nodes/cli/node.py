"""`airdraft coordinator|draft|target`: run one process of a mesh in the foreground."""

import contextlib
from dataclasses import fields
from typing import Any

import click

from airdraft.nodes.cli.options import (
    GPU_LAYERS,
    THREADS,
    adds,
    config_option,
    keys_option,
    mesh_options,
    verbose_option,
)
from airdraft.nodes.cli.progress import Progress
from airdraft.nodes.config.settings import (
    LOOPBACK_ENDPOINT,
    CoordinatorConfig,
    DraftConfig,
    EngineSettings,
    TargetConfig,
    load,
)
from airdraft.nodes.service.roles import run_coordinator, run_node
from airdraft.nodes.service.runtime import print_line, run_to_end, set_up_logging
from airdraft.nodes.service.supervision import Parent

_engine_overrides = adds(
    config_option,
    mesh_options,
    click.option("--name", help="The node's name in the mesh."),
    click.option("--model", metavar="NAME|PATH", help="Catalogue name or GGUF file."),
    click.option("--model-sha256", metavar="HEX", help="Hash that the model file must have."),
    click.option("--profile", type=click.Choice(["exact", "fast"])),
    click.option("--cells", type=int, help="Number of tokens that the KV cache holds."),
    click.option("--max-streams", type=int, help="Maximum number of streams at a time."),
    click.option(
        "--threads",
        type=THREADS,
        help="Engine threads; auto means one for each physical core of the machine.",
    ),
    click.option(
        "--gpu-layers",
        type=GPU_LAYERS,
        help="Layers on the GPU; auto means all, if llama.cpp was built for one.",
    ),
    click.option(
        "--prefix-cache-mb",
        type=int,
        help="Target only: memory for texts that have left the KV cache; 0 for none.",
    ),
    click.option(
        "--vocabulary",
        metavar="NAME|PATH",
        help="Draft only: a model with the targets' vocabulary, if its own differs.",
    ),
    click.option(
        "--draft",
        metavar="NAME|PATH",
        help="Target only: a draft model that guesses in this process, in turns with passes.",
    ),
    click.option(
        "--weights",
        type=click.Choice(["auto", "as-stored"]),
        help="auto runs a compact copy of a draft model if that guesses faster.",
    ),
    click.option("--supervised", is_flag=True, hidden=True),
    verbose_option,
)


def _overrides(values: dict[str, Any]) -> dict[str, Any]:
    engine = tuple(item.name for item in fields(EngineSettings))
    overrides = {f"engine.{name}": values[name] for name in engine}
    return overrides | {key: values[key] for key in ("connect", "keys", "name")}


def _start(config_class: type[TargetConfig | DraftConfig], values: dict[str, Any]) -> None:
    """Load a node's config and run it; a supervised node reports progress as lines."""
    set_up_logging(values["verbose"])
    config = load(config_class, values["config"], _overrides(values))
    parent = Parent() if values["supervised"] else None
    with Progress() as bar:
        progress = bar if parent is None else parent.progress

        def on_ready(endpoint: str) -> None:
            bar.clear()
            # A closed standard error must not end the node.
            with contextlib.suppress(OSError):
                if parent is None:
                    text = f"{config.name} is ready: it joined the mesh at {endpoint}"
                    click.echo(text, err=True)

        run_to_end(
            lambda: run_node(config, parent=parent, progress=progress, on_ready=on_ready),
            is_service=True,
        )


@click.command("target")
@_engine_overrides
def target_command(**values: Any) -> None:
    """Run a target node, which verifies guesses and decodes.

    \b
    Example:
      airdraft target --model smollm2-135m
    """
    _start(TargetConfig, values)


@click.command("draft")
@_engine_overrides
def draft_command(**values: Any) -> None:
    """Run a draft node, which guesses tokens for a target to verify.

    \b
    Example:
      airdraft draft --model smollm2-draft
    """
    _start(DraftConfig, values)


listen_option = click.option(
    "--listen",
    metavar="ENDPOINT",
    help="Endpoint that clients and nodes connect to.  [default: a socket that only this user can "
    f"reach, or {LOOPBACK_ENDPOINT} with keys]",
)


@click.command("coordinator")
@config_option
@listen_option
@keys_option
@verbose_option
def coordinator_command(**values: Any) -> None:
    """Run the coordinator, to which nodes and clients connect.

    \b
    Example:
      airdraft coordinator
    """
    set_up_logging(values["verbose"])
    overrides = {key: values[key] for key in ("listen", "keys")}
    config = load(CoordinatorConfig, values["config"], overrides)
    run_to_end(lambda: run_coordinator(config, announce), is_service=True)


def announce(endpoint: str) -> None:
    print_line(f"listening on {endpoint}")
