"""The commands of `airdraft`, from click."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from airdraft.nodes.cli.main import cli
from bench.pages.markdown import code, item, wrapped


def commands() -> str:
    """Every command with its arguments, options, defaults and examples."""
    root = click.Context(cli, info_name="airdraft")
    return "\n\n".join(_described(root))


def _described(context: click.Context) -> Iterator[str]:
    command = context.command
    help_text, examples = _help(command.help or "")
    yield f"### {context.command_path}"
    yield help_text
    pieces = " ".join(command.collect_usage_pieces(context))
    yield f"```text\n{context.command_path} {pieces}".rstrip() + "\n```"
    options = [
        record
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
        and "--help" not in parameter.opts
        and (record := parameter.get_help_record(context)) is not None
    ]
    if options:
        yield "\n".join(item(f"{code(names)}: {_one_line(text)}") for names, text in options)
    if examples:
        yield f"```sh\n{examples}\n```"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from _described(click.Context(below, info_name=name, parent=context))


def _help(text: str) -> tuple[str, str]:
    """The paragraphs, and the examples, which stand below a line that says so."""
    said, examples = list[str](), list[str]()
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        head, *lines = paragraph.splitlines() or [""]
        if head == "\b" and lines and lines[0].startswith("Example"):
            examples += [line.strip() for line in lines[1:]]
        elif head == "\b":
            said.append("\n".join(["```text", *lines, "```"]))
        else:
            said.append(wrapped(paragraph))
    return "\n\n".join(said), "\n".join(examples)


def _one_line(text: str) -> str:
    return " ".join(text.split()) or "No help."
