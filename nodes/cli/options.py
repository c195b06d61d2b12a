"""Options that several commands share."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import click

from airdraft.nodes.client.client import RequestFailedError
from airdraft.nodes.client.generation import GenerateOptions, common_sampling, text_targets
from airdraft.nodes.config.sources import schema_of
from airdraft.nodes.engine.chat.tools import told_switch
from airdraft.nodes.engine.traits import SAMPLING_NAMES, SamplingDefaults
from airdraft.nodes.messages import MAX_DEADLINE_S, MAX_GAMMA, MAX_PRIORITY, NodeFields

F = TypeVar("F", bound=Callable[..., Any])
_DEFAULTS = GenerateOptions()
# Of a model whose file names none.
_SAMPLING = SamplingDefaults()


def adds(*options: Callable[[F], F]) -> Callable[[F], F]:
    """A decorator that adds several options to a command, in this order."""

    def added(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return added


# A file that a command reads itself; settings are read by nodes.config.
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="File of settings; the environment (AIRDRAFT_...) and options override it.",
)
connect_option = click.option(
    "--connect",
    envvar="AIRDRAFT_CONNECT",
    metavar="ENDPOINT",
    help="The coordinator's endpoint.  [default: the mesh that this machine joined, else the one "
    "on this machine]",
)
keys_option = click.option(
    "--keys",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Directory of key files.  [default: AIRDRAFT_KEYS, or airdraft/keys in the user's config]",
)
mesh_options = adds(connect_option, keys_option)
verbose_option = click.option("-v", "--verbose", count=True, help="Log more.")


class FiniteRange(click.FloatRange):
    """A range of numbers. NaN is refused, which compares as false with both ends of any range."""

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, context))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, context)
        return number


class AutoType(click.ParamType[int | None]):
    """A number, or the word auto, which becomes the value `auto`."""

    name = "auto|N"

    def __init__(self, auto: int | None, least: int, most: int) -> None:
        self._auto, self._range = auto, click.IntRange(least, most)

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> int | None:
        if str(value) in ("auto", str(self._auto)):
            return self._auto
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor auto", param, context)
        return int(self._range.convert(number, param, context))


def setting(
    config: Callable[[], Any], key: str, help: str, short: str = "", metavar: str | None = None
) -> Callable[[F], F]:
    """The option of a setting of a role, with its default, its range and its words.

    config: the role's class. key: the setting; the part behind its dot is the option's name.
    """
    name = key.rpartition(".")[2]
    owner = attrgetter(key.rpartition(".")[0])(config()) if "." in key else config()
    default = getattr(owner, name)
    metadata = next(item.metadata for item in fields(owner) if item.name == name)
    kind: click.ParamType[Any] | None = None
    if words := metadata.get("words"):
        kind = click.Choice(words)
    elif "accepted" in metadata:
        low, high = metadata["accepted"]
        # The engine chooses for itself at a value below all numbers that it could be given.
        is_auto = default == low and high > low
        kind = AutoType(default, low + 1, high) if is_auto else click.IntRange(low, high)
        default = "auto" if is_auto else default
    shown = f"{help}  [default: {default}]" if default else help
    flags = filter(None, (short, f"--{name.replace('_', '-')}"))
    # It is left out if it is not given, so that a file or the environment may have it.
    return click.option(*flags, name, type=kind, default=None, metavar=metavar, help=shown)


def given_settings(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the options of a role's settings, by the dotted keys of these."""
    keys = {key.rpartition(".")[2]: key for key in schema_of(config)}
    return {keys[name]: value for name, value in values.items() if name in keys}


def model_options(config: Callable[[], Any]) -> Callable[[F], F]:
    """The options of a role's model and of how it runs."""
    cells = "Most tokens in the KV cache; auto means the model's context, as far as memory goes."
    threads = "Engine threads; auto means one for each physical core."
    layers = "Layers on the GPU; auto means all, if llama.cpp was built for one."
    profile = "exact: the same bits in every batch; fast: no such promise."
    return adds(
        setting(config, "engine.model", "Catalogue name or GGUF file.", "-m", "NAME|PATH"),
        setting(config, "engine.profile", profile),
        setting(config, "engine.cells", cells, "-c"),
        setting(config, "engine.threads", threads, "-t"),
        setting(config, "engine.gpu_layers", layers, "-ngl"),
    )


def max_streams_option(config: Callable[[], Any]) -> Callable[[F], F]:
    return setting(config, "engine.max_streams", "Maximum number of streams at a time.")


def draft_option(config: Callable[[], Any]) -> Callable[[F], F]:
    says = (
        "Draft model of the target. auto: the catalogue's, or the head of the target's file; "
        "none: no draft model, but still prompt lookup."
    )
    return setting(config, "engine.draft", says, "-md", "NAME|PATH|auto|none")


def one_model(*given: str | None) -> str | None:
    """Return the model that a command was given once or more. Raises UsageError for several."""
    found = list(dict.fromkeys(filter(None, given)))
    if len(found) > 1:
        raise click.UsageError(f"{' and '.join(found)}: give one model")
    return found[0] if found else None


def across_options(config: Callable[[], Any]) -> Callable[[F], F]:
    """The options of a target that shares its model with other machines."""
    told = "Stages in the mesh that run the first layers of the model."
    spare = "Stages that take the place of those that stay away."
    return adds(
        setting(config, "engine.across", told, "", "NAME,..."),
        setting(config, "engine.spare", spare, "", "NAME,..."),
    )


def sampling_options(max_tokens: int) -> Callable[[F], F]:
    """The options of how a text is made. max_tokens: the default of that option."""
    # A sampling option that is not given is None and left to the model.
    return adds(
        click.option(
            "--max-tokens",
            type=click.IntRange(1, 1 << 20),
            default=max_tokens,
            show_default=True,
            help="Maximum number of tokens to generate.",
        ),
        click.option(
            "--temperature",
            type=FiniteRange(0, 100),
            help="Sampling temperature; 0 always takes the likeliest token.  "
            f"[default: from the model's file, else {_SAMPLING.temperature}]",
        ),
        click.option(
            "--top-p",
            type=FiniteRange(0, 1, min_open=True),
            help="Keep the likeliest tokens that reach this total probability.  "
            f"[default: from the model's file, else {_SAMPLING.top_p}]",
        ),
        click.option(
            "--top-k",
            type=click.IntRange(0),
            help="Keep this many of the likeliest tokens; 0 keeps all.  "
            f"[default: from the model's file, else {_SAMPLING.top_k}]",
        ),
        click.option(
            "--min-p",
            type=FiniteRange(0, 1),
            help="Keep tokens of at least this probability, relative to the likeliest token's.  "
            f"[default: from the model's file, else {_SAMPLING.min_p}]",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0, (1 << 63) - 1),
            help="Seed of sampling; the same seed repeats a text.  [default: random]",
        ),
        click.option(
            "--gamma",
            type=AutoType(None, 0, MAX_GAMMA),
            default="auto",
            show_default=True,
            help=f"Maximum number of guesses per pass, 0 to {MAX_GAMMA}; auto chooses the fastest.",
        ),
        click.option(
            "--thinking/--no-thinking",
            default=None,
            help="Whether the model thinks before it answers, if its chat template can switch "
            "this.  [default: as the template has it]",
        ),
    )


# What to generate and how to print it.
generate_options = adds(
    click.argument("prompt", metavar="PROMPT|-"),
    sampling_options(_DEFAULTS.max_tokens),
    click.option(
        "--priority",
        type=click.IntRange(1, MAX_PRIORITY),
        default=_DEFAULTS.priority,
        show_default=True,
        help="Weight of this request's speed and of its place in the queue; no request "
        "waits for ever.",
    ),
    click.option(
        "--streams",
        "num_choices",
        type=click.IntRange(1, 64),
        default=_DEFAULTS.num_choices,
        show_default=True,
        help="Number of answers to the prompt, generated together.",
    ),
    click.option(
        "--stop", "stops", multiple=True, metavar="TEXT", help="End the answer before this text."
    ),
    click.option("--ignore-eog", is_flag=True, help="Continue after an end-of-text token."),
    click.option(
        "--chat/--raw", default=True, help="Use the model's chat template, or the prompt as it is."
    ),
    click.option(
        "--timeout",
        "timeout_s",
        type=FiniteRange(0, MAX_DEADLINE_S, min_open=True),
        metavar="SECONDS",
        help="Fail if the answer is not complete after this time.  "
        "[default: the coordinator's limit]",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
)


# The options above that GenerateOptions has under the same names.
_OF_REQUEST = (
    *("max_tokens", "seed", "gamma", "priority", "num_choices", "stops", "ignore_eog", "chat"),
    "timeout_s",
)


def read_prompt(prompt: str) -> str:
    """Return the prompt that is given, or what standard input has for `-`. Raises UsageError."""
    if prompt == "-":
        try:
            prompt = click.open_file("-", encoding="utf-8").read()
        except UnicodeDecodeError as error:
            raise click.UsageError("standard input is not UTF-8 text") from error
    if not prompt.strip():
        raise click.UsageError("the prompt is empty: give some text")
    # Python keeps bytes of a command line that are not UTF-8 as halves of surrogate pairs.
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise click.UsageError("the prompt is not UTF-8 text: convert it, for example with iconv")
    return prompt


def leaves_sampling_open(values: Mapping[str, Any]) -> bool:
    """Whether a sampling option is left to the model."""
    return any(values.get(name, 0) is None for name in SAMPLING_NAMES)


def sampling_in(values: Mapping[str, Any], nodes: Iterable[NodeFields]) -> dict[str, Any]:
    """The sampling options: those given, else the defaults of the models in a mesh.

    Raises RequestFailedError if some are not given and no target is present: the defaults of the
    model that comes back may differ from the general ones, and the text with them.
    """
    targets = text_targets(nodes)
    if leaves_sampling_open(values) and not targets:
        reason = "no target that generates text is present: start one, or try again when it is back"
        raise RequestFailedError("unavailable", reason)
    usual = common_sampling(targets)
    return {
        name: getattr(usual, name) if values[name] is None else values[name]
        for name in SAMPLING_NAMES
    }


def options_of(values: Mapping[str, Any], nodes: Iterable[NodeFields]) -> GenerateOptions:
    """Make the options of a request from what click parsed. Raises RequestFailedError."""
    given = {name: values[name] for name in _OF_REQUEST}
    tools = told_switch(values["thinking"]) if values["chat"] else ""
    return GenerateOptions(**given, tools=tools, **sampling_in(values, nodes))
