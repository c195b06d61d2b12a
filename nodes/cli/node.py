"""`airdraft coordinator|draft|target`: run one process of a mesh in the foreground."""

import contextlib
from collections.abc import Callable
from typing import Any

import click

from airdraft.nodes.cli.options import (
    F,
    across_options,
    adds,
    config_option,
    draft_option,
    given_settings,
    keys_option,
    max_streams_option,
    mesh_options,
    model_options,
    setting,
    verbose_option,
)
from airdraft.nodes.cli.progress import Progress
from airdraft.nodes.config.settings import (
    LOOPBACK_ENDPOINT,
    CoordinatorConfig,
    DraftConfig,
    TargetConfig,
)
from airdraft.nodes.config.sources import load
from airdraft.nodes.service.roles import run_coordinator, run_node
from airdraft.nodes.service.running import Running, registered
from airdraft.nodes.service.runtime import print_line, run_to_end, set_up_logging
from airdraft.nodes.service.supervision import Parent

_WEIGHTS = "auto runs a compact copy of a draft model if that guesses faster."
_PREFIXES = "Memory, in MB, for texts that left the KV cache; auto means an eighth of what is free."
_ON_DISK = (
    "Disk space, in MB, for long texts that are kept over restarts; auto means a tenth of it."
)
_VOCABULARY = "A model with the targets' vocabulary, if its own differs."


def _node_options(config: type[TargetConfig | DraftConfig]) -> Callable[[F], F]:
    """The options that nodes of both roles have."""
    return adds(
        config_option,
        mesh_options,
        setting(config, "name", "The node's name in the mesh."),
        model_options(config),
        setting(config, "engine.model_sha256", "Hash that the model file must have.", "", "HEX"),
        max_streams_option(config),
        setting(config, "engine.weights", _WEIGHTS),
        click.option("--supervised", is_flag=True, hidden=True),
        verbose_option,
    )


def _start(config_class: type[TargetConfig | DraftConfig], values: dict[str, Any]) -> None:
    """Load a node's config and run it; a supervised node reports progress as lines."""
    set_up_logging(values["verbose"])
    config = load(config_class, values["config"], given_settings(config_class, values))
    parent = Parent() if values["supervised"] else None
    role = "target" if config_class is TargetConfig else "draft"
    listed = Running(role, name=config.name, model=config.engine.model)
    with Progress() as bar, contextlib.ExitStack() as stack:
        progress = bar if parent is None else parent.progress
        # A supervised node is part of its parent's mesh.
        file = stack.enter_context(registered(listed)) if parent is None else None

        def tell(line: str) -> None:
            bar.clear()
            # A closed standard error must not end the node.
            with contextlib.suppress(OSError):
                click.echo(line, err=True)

        def on_ready(endpoint: str) -> None:
            if file is not None:
                file.change(endpoint=endpoint, is_ready=True)
                tell(f"{config.name} is ready: it joined the mesh at {endpoint}")

        told = tell if parent is None else parent.tell
        run_to_end(
            lambda: run_node(
                config, parent=parent, progress=progress, tell=told, on_ready=on_ready
            ),
            is_service=True,
        )


@click.command("target")
@draft_option(TargetConfig)
@setting(TargetConfig, "engine.prefix_cache_mb", _PREFIXES)
@setting(TargetConfig, "engine.prefix_disk_mb", _ON_DISK)
@across_options(TargetConfig)
@_node_options(TargetConfig)
def target_command(**values: Any) -> None:
    """Run a target node, which verifies guesses and decodes.

    \b
    Example:
      airdraft target --model smollm2-135m
    """
    _start(TargetConfig, values)


@click.command("draft")
@setting(DraftConfig, "engine.vocabulary", _VOCABULARY, "", "NAME|PATH")
@_node_options(DraftConfig)
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
    config = load(CoordinatorConfig, values["config"], given_settings(CoordinatorConfig, values))
    with registered(Running("coordinator", name=config.cluster)) as file:

        def on_bound(endpoint: str) -> None:
            file.change(endpoint=endpoint, is_ready=True)
            announce(endpoint)

        run_to_end(lambda: run_coordinator(config, on_bound), is_service=True)


def announce(endpoint: str) -> None:
    print_line(f"listening on {endpoint}")
