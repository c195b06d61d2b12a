"""`airdraft run`: starts a private mesh for one prompt."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from airdraft.nodes.catalog import DEFAULT_TARGET, Catalog, default_cache_dir
from airdraft.nodes.cli.generate import print_request
from airdraft.nodes.cli.options import GPU_LAYERS, THREADS, adds, generate_options, read_prompt
from airdraft.nodes.cli.progress import Progress
from airdraft.nodes.config.settings import EngineSettings, environment
from airdraft.nodes.engine.cores import usable_cores
from airdraft.nodes.service.local import local_mesh
from airdraft.nodes.service.roles import NGRAM
from airdraft.nodes.service.runtime import run_to_end, set_up_logging
from airdraft.nodes.worker.engines import opener_of

# The models of a mesh and how they run.
engine_options = adds(
    click.option(
        "-m",
        "--model",
        default=DEFAULT_TARGET,
        show_default=True,
        metavar="NAME|PATH",
        help="Target model: a catalogue name or a GGUF file.",
    ),
    click.option(
        "-md",
        "--draft",
        metavar="NAME|PATH|ngram|none",
        help="Draft model; prompt lookup also makes guesses where it is better. "
        "ngram: prompt lookup only; none: plain decoding."
        "  [default: the catalogue's draft for the target, else ngram]",
    ),
    click.option(
        "--beside",
        is_flag=True,
        help="Run the draft model on a node of its own, as on another device. Without this it "
        "guesses in the target's process, in turns with its passes.",
    ),
    click.option(
        "--profile",
        type=click.Choice(["exact", "fast"]),
        default="exact",
        show_default=True,
        help="exact: the same bits in every batch; fast: no such promise.",
    ),
    click.option(
        "-c",
        "--cells",
        type=click.IntRange(256, 1 << 22),
        default=8192,
        show_default=True,
        help="Number of tokens that the KV cache of each node holds.",
    ),
    click.option(
        "-t",
        "--threads",
        type=THREADS,
        default="auto",
        show_default=True,
        help="Engine threads; auto means one for each physical core.",
    ),
    click.option(
        "-ngl",
        "--gpu-layers",
        type=GPU_LAYERS,
        default="auto",
        show_default=True,
        help="Layers on the GPU; auto means all, if llama.cpp was built for one.",
    ),
    click.option("-v", "--verbose", count=True, help="Log more; -vv logs every pass."),
)


def settings_of(
    values: dict[str, Any], max_streams: int
) -> tuple[EngineSettings, EngineSettings | None, bool]:
    """Return the settings of target and draft node, and whether prompt lookup is used. Pulls model
    files that are missing."""
    catalog = Catalog(default_cache_dir(environment()))
    draft = values["draft"]
    if draft is None:
        draft = catalog.draft_of(values["model"]) or NGRAM

    def settings(name: str, profile: str) -> EngineSettings:
        sha256 = None
        if not opener_of(name):
            with Progress() as progress:
                path = catalog.ensure(name, progress)
            sha256 = catalog.sha256(name)
            # The nodes get the absolute path, so that a name means one file in the mesh. If it
            # is a link, the link's name is shown and not that of a blob.
            name = str(Path(path).absolute())
        return EngineSettings(
            model=name,
            model_sha256=sha256 or "",
            profile=profile,
            cells=values["cells"],
            max_streams=max_streams,
            threads=threads,
            gpu_layers=values["gpu_layers"],
        )

    has_model = draft not in (NGRAM, "none")
    threads = values["threads"] or usable_cores()
    target = settings(values["model"], values["profile"])
    if not has_model:
        return target, None, draft != "none"
    drafting = settings(draft, "fast")
    if not values["beside"]:
        return replace(target, draft=drafting.model), None, True
    are_files = not opener_of(target.model) and not opener_of(draft)
    return target, replace(drafting, vocabulary=target.model if are_files else ""), True


@click.command("run")
@generate_options
@engine_options
def run_command(**values: Any) -> None:
    """Generate text on a private mesh, with a draft and a target process of its own.

    \b
    Examples:
      airdraft run --prompt "Why is the sky blue?"
      airdraft run --gamma 4 --temperature 0.8 --seed 7 - < notes.txt
      echo "Once upon a time" | airdraft run - --raw --json
    """
    set_up_logging(values["verbose"])
    prompt = read_prompt(values["source"], values["prompt"])
    target, draft, lookup = settings_of(values, max_streams=max(16, values["num_choices"]))

    async def generate() -> None:
        with Progress() as progress:
            local = local_mesh(target, draft, lookup=lookup, progress=progress)
            async with local as (mesh, client):
                progress.clear()
                await mesh.beside(print_request(client, prompt, values))

    run_to_end(generate)
