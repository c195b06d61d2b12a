"""`airdraft run`: starts a private mesh for one prompt."""

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from airdraft.nodes.catalog import Catalog, default_cache_dir
from airdraft.nodes.cli.generate import print_request
from airdraft.nodes.cli.options import (
    adds,
    draft_option,
    generate_options,
    given_settings,
    model_options,
    read_prompt,
)
from airdraft.nodes.cli.progress import Progress
from airdraft.nodes.config.settings import (
    NO_DRAFT,
    DraftEngine,
    EngineSettings,
    ServeConfig,
    TargetEngine,
)
from airdraft.nodes.config.sources import environment, load
from airdraft.nodes.engine.cores import usable_cores
from airdraft.nodes.service.local import local_mesh
from airdraft.nodes.service.runtime import run_to_end, set_up_logging
from airdraft.nodes.worker.engines import draft_for, opener_of

E = TypeVar("E", bound=EngineSettings)

# The models of a mesh on one machine, and how they run.
engine_options = adds(
    model_options(ServeConfig),
    draft_option(ServeConfig),
    click.option(
        "--beside",
        is_flag=True,
        default=None,
        help="Run the draft model on a node of its own, as on another device. Without this it "
        "guesses in the target's process, in turns with its passes.",
    ),
    click.option("-v", "--verbose", count=True, help="Log more; -vv logs every pass."),
)


def engines_of(config: ServeConfig) -> tuple[TargetEngine, DraftEngine | None]:
    """Return the settings of target and draft node, if there is one. Pulls model files that are
    missing."""
    engine = replace(config.engine, threads=config.engine.threads or usable_cores())
    target = with_file(replace(engine, draft=NO_DRAFT))
    if (draft := draft_for(engine)) is None:
        # The target's own file may have a head that guesses.
        return replace(target, draft=engine.draft), None
    draft = with_file(draft)
    if not config.beside:
        return replace(target, draft=draft.model), None
    return target, replace(draft, vocabulary=target.model if draft.vocabulary else "")


def with_file(engine: E) -> E:
    """Return settings with the file of their model, which is pulled if it is missing."""
    if opener_of(engine.model):
        return engine
    catalog = Catalog(default_cache_dir(environment()))
    with Progress() as progress:
        path = catalog.ensure(engine.model, progress)
    # The nodes get the absolute path, so that a name means one file in the mesh. If it is a link,
    # the link's name is shown and not that of a blob.
    sha256 = catalog.sha256(engine.model) or engine.model_sha256
    return replace(engine, model=str(Path(path).absolute()), model_sha256=sha256)


@click.command("run")
@generate_options
@engine_options
def run_command(**values: Any) -> None:
    """Generate text on a private mesh, with a draft and a target process of its own.

    \b
    Examples:
      airdraft run "Why is the sky blue?"
      airdraft run --gamma 4 --temperature 0.8 --seed 7 - < notes.txt
      echo "Once upon a time" | airdraft run - --raw --json
    """
    set_up_logging(values["verbose"])
    prompt = read_prompt(values["prompt"])
    # The environment is for a mesh that stays.
    config = load(ServeConfig, None, given_settings(ServeConfig, values), {})
    most = max(config.engine.max_streams, values["num_choices"])
    config = replace(config, engine=replace(config.engine, max_streams=most))
    target, draft = engines_of(config)

    async def generate() -> None:
        with Progress() as progress:
            local = local_mesh(target, draft, progress=progress)
            async with local as (mesh, client):
                progress.clear()
                await mesh.beside(print_request(client, prompt, values))

    run_to_end(generate)
