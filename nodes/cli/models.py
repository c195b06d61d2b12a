"""`airdraft models`: lists, fetches and removes model files."""

import signal
import sys
from pathlib import Path
from types import FrameType

import click

from airdraft.nodes.catalog import (
    DEFAULT_DRAFT,
    DEFAULT_TARGET,
    Catalog,
    CatalogError,
    default_cache_dir,
)
from airdraft.nodes.catalog.cuts import parts_of
from airdraft.nodes.catalog.gguf import GgufError, declared_by, vocabulary_of
from airdraft.nodes.catalog.hub import files_of, name_of
from airdraft.nodes.catalog.stages import even_cuts, kept_parts, write_stage
from airdraft.nodes.cli.output_file import write_output
from airdraft.nodes.cli.progress import Progress
from airdraft.nodes.config.sources import environment
from airdraft.nodes.engine.traits import SamplingDefaults
from airdraft.nodes.worker.engines import kept_hash


@click.group()
@click.pass_context
def models(context: click.Context) -> None:
    """List, pull, find and remove model files.

    They come from the Hugging Face Hub into its cache, which other programs share (HF_HOME), or
    from a mirror that AIRDRAFT_MIRRORS names. What airdraft makes itself is kept in the user's
    cache folder, or in the folder that AIRDRAFT_CACHE names.

    \b
    Example:
      airdraft models pull smollm2-135m
    """
    context.obj = Catalog(default_cache_dir(environment()))


@models.command("split")
@click.argument("name")
@click.option("--into", type=click.IntRange(2), help="Number of stages, for equal machines.")
@click.option(
    "--at", default="", metavar="BLOCKS", help="First blocks of the stages after the first."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder of the files.  [default: this one]",
)
@click.pass_obj
def split(catalog: Catalog, name: str, into: int | None, at: str, out: Path) -> None:
    """Cut a model into files of stages, which several machines run together.

    All but the last are for `airdraft stage`, and the last one is for a target with engine.across.

    \b
    Examples:
      airdraft models split qwen2.5-coder-1.5b --into 2
      airdraft models split my-model.gguf --at 9,20 --out stages
    """
    if (into is None) == (not at):
        raise click.UsageError("give --into or --at")
    try:
        path = catalog.path(name)
        cuts = even_cuts(path, into) if into else [int(text) for text in at.split(",")]
        parts = parts_of(path, cuts)
        model_hash = kept_hash(path, default_cache_dir(environment()) / "calibration")
        with Progress() as progress:
            for part in parts:
                file = out / f"{path.stem}-{part.first}-{part.end}.gguf"
                write_stage(path, part, model_hash, file, progress)
                progress.clear()
                click.echo(f"{file}: blocks {part.first} to {part.end - 1} of {part.count}")
    except ValueError:
        raise click.UsageError(f"--at {at!r}: numbers of blocks with commas are accepted") from None
    except GgufError as error:
        raise click.ClickException(f"{name} {error}") from None


@models.command("list")
@click.pass_obj
def list_models(catalog: Catalog) -> None:
    """List the catalogue, and the other models on this machine.

    A star marks what is on this machine: models that were pulled, those of Ollama and LM Studio,
    which `pull` uses without a copy, and parts of split models. For models the list also shows the
    form of their tool calls, and their sampling defaults if these differ from llama.cpp's.

    \b
    Example:
      airdraft models list
    """
    installed = catalog.installed()
    width = max(len(name) for name in catalog.names())
    for name in catalog.names():
        entry, mark = catalog.entry(name), "*" if name in installed else " "
        megabytes = (entry.size_bytes or 0) / 1e6
        text = _traits_text(catalog.path(name)) if name in installed else ""
        click.echo(
            f"{mark} {name:<{width}}  {megabytes:6.1f} MB  {entry.licence:<18}  {entry.summary}"
            + text
        )
    for name, path in catalog.found().items():
        click.echo(f"* {name}  {path.stat().st_size / 1e6:.1f} MB{_traits_text(path)}")
    for path in _parts():
        click.echo(f"* {path.name}  {path.stat().st_size / 1e6:.1f} MB, a part of a split model")


def _parts() -> list[Path]:
    return kept_parts(default_cache_dir(environment()) / "stages")


def _traits_text(path: Path) -> str:
    """The part of a line of the list that comes from the model's file."""
    try:
        declared = declared_by(path)
    except (GgufError, OSError):
        return ""
    traits, head = declared.traits, declared.has_head
    if traits.embeds:
        return "; embeddings"
    text = f"; tools as {traits.tool_style}" if traits.tool_style else ""
    text += "; thinks" if traits.thinking else ""
    if head is not None:
        text += "; a head that guesses" if head else "; its head is left out of this file"
    if (drawn := traits.sampling) != SamplingDefaults():
        text += f"; temperature {drawn.temperature:g}, top-k {drawn.top_k}"
        text += f", top-p {drawn.top_p:g}, min-p {drawn.min_p:g}"
    return text


@models.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--accept-terms", is_flag=True, help="Accept the terms of use of these models.")
@click.pass_obj
def pull(catalog: Catalog, names: tuple[str, ...], accept_terms: bool) -> None:
    """Download models, or derive them from others; without a NAME, the default target and draft.

    Files that exist are kept. The command prints the path of each file. Beside the catalogue's, a
    NAME may be one of `airdraft models list`, OWNER/REPO[@REVISION][:QUANT] of the Hugging Face
    Hub, whose QUANT is Q4_K_M if left out, or the address of a file's page there. Other commands
    know such a file as hf:OWNER/REPO[@REVISION]/FILE, which is a NAME, too. Its hash is not known
    beforehand. Without a REVISION it is the newest version. The first part of a split model stands
    for all parts, which are joined to a file of their own and leave the cache.

    \b
    Examples:
      airdraft models pull
      airdraft models pull gemma-3-270m --accept-terms
      airdraft models pull Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0
      airdraft models pull ollama:llama3.2:1b
    """
    signal.signal(signal.SIGTERM, _stop)  # unwinding removes what is incomplete
    for name in names or (DEFAULT_TARGET, DEFAULT_DRAFT):
        is_of_program = name.startswith(("ollama:", "lmstudio:"))
        is_name = catalog.knows(name) or "/" not in name or is_of_program
        _pull(catalog, name if is_name else name_of(name), accept_terms)


@models.command("files")
@click.argument("repository", metavar="OWNER/REPO")
def list_files(repository: str) -> None:
    """List the GGUF files of a Hugging Face repository, with their names for `pull`.

    \b
    Example:
      airdraft models files Qwen/Qwen2.5-0.5B-Instruct-GGUF
    """
    for name, size_bytes in files_of(repository).items():
        click.echo(f"{size_bytes / 1e6:10.1f} MB  hf:{repository}/{name}")


@models.command()
@click.argument("name")
@click.option("--verify", is_flag=True, help="Check the hash of the file first.")
@click.pass_obj
def path(catalog: Catalog, name: str, verify: bool) -> None:
    """Print the path of a model's file.

    \b
    Example:
      airdraft models path smollm2-135m --verify
    """
    found = catalog.path(name)
    if verify and catalog.sha256(name):
        catalog.verify(name)
    click.echo(found)


@models.command()
@click.argument("name", metavar="NAME|PATH")
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def vocabulary(catalog: Catalog, name: str, output: Path) -> None:
    """Write the vocabulary of a model as a small GGUF file.

    A draft node needs it (`airdraft draft --vocabulary FILE`) if its model's vocabulary differs
    from its targets' and their model file is not on its machine.

    \b
    Example:
      airdraft models vocabulary qwen2.5-coder-1.5b qwen-vocabulary.gguf
    """
    found = catalog.path(name)
    if output.exists() and output.samefile(found):
        raise click.UsageError(f"{output} is the model file itself: give another OUTPUT")
    try:
        data = vocabulary_of(found)
    except GgufError as error:
        raise CatalogError(f"model file {found} {error}") from error
    except OSError as error:
        raise CatalogError(f"model file {found}: {error.strerror}") from error
    write_output(output, data)


@models.command("rm")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.pass_obj
def remove(catalog: Catalog, names: tuple[str, ...]) -> None:
    """Delete the files of models, also in the cache of the Hugging Face Hub, and of their parts.

    Files of Ollama and LM Studio stay there, and are only no longer used.

    \b
    Examples:
      airdraft models rm gemma-3-270m
      airdraft models rm qwen2.5-coder-1.5b-0-16.gguf
    """
    for name in names:
        if found := [path for path in _parts() if path.name == name]:
            for path in found:
                path.unlink(missing_ok=True)
        else:
            catalog.remove(name)


def _pull(catalog: Catalog, name: str, accept_terms: bool) -> None:
    entry, is_new = catalog.entry(name), not catalog.has(name)
    if is_new and entry.terms is not None:
        click.echo(entry.terms, err=True)
        if not accept_terms and sys.stdin.isatty():
            accept_terms = click.confirm("Do you accept them?", err=True)
    with Progress() as progress:
        found = catalog.pull(name, progress, accept_terms=accept_terms)
    if is_new:
        click.echo(f"{name}: licence {entry.licence}", err=True)
    click.echo(found)


def _stop(signal_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal_number)
