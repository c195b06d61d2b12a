"""The messages of a chat and the /commands that change them, without terminal and mesh."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click

from airdraft.mesh.json_form import as_object, from_object
from airdraft.nodes.api import ChatMessage, Options
from airdraft.nodes.cli.output_file import write_output

_MAX_FILE_BYTES = 16 << 20
_ROLES = ("system", "user", "assistant")

HELP = """\
/help            show this list
/reset           forget the conversation, but keep the system message
/system TEXT     set the system message; without TEXT, remove it
/save FILE       write the conversation to a file
/load FILE       continue a conversation from a file
/stats           show or hide speed and acceptance after each answer
/seed N          set the seed, which repeats texts; without N, draw one each time
/temp X          set the temperature; 0 always takes the likeliest token
/quit            quit, as Ctrl-D does
Ctrl-C stops an answer. To begin a message with /, write //."""


class CommandError(Exception):
    """A /command is invalid; the text says what is accepted."""


@dataclass(frozen=True, slots=True)
class _Saved:
    """The content of a file that /save writes."""

    messages: tuple[ChatMessage, ...]
    system: str = ""


@dataclass(slots=True)
class Conversation:
    """The state of a chat. messages: those of user and assistant, without the system message."""

    options: Options
    system: str = ""
    has_stats: bool = False
    messages: list[ChatMessage] = field(default_factory=list)
    is_over: bool = False

    def asked(self, text: str) -> tuple[ChatMessage, ...]:
        """The messages of the next request: the conversation so far and `text`."""
        first = (ChatMessage("system", self.system),) if self.system else ()
        return (*first, *self.messages, ChatMessage("user", text))

    def answered(self, text: str, answer: str) -> None:
        """Add a turn to the conversation. A turn without any answer is dropped."""
        if answer:
            self.messages += (ChatMessage("user", text), ChatMessage("assistant", answer))

    def command(self, line: str) -> str:
        """Run a line that begins with / and return the text to show. Raises CommandError."""
        word, _, rest = line.removeprefix("/").partition(" ")
        found: Callable[[str], str] | None = getattr(self, f"on_{word}", None)
        if found is None:
            raise CommandError(f"unknown command /{word}: /help lists the commands")
        return found(rest.strip())

    # -- one method for each command -----------------------------------------------------------

    def on_help(self, _rest: str) -> str:
        return HELP

    def on_reset(self, _rest: str) -> str:
        self.messages.clear()
        return "the conversation is forgotten"

    def on_system(self, rest: str) -> str:
        self.system = rest
        return "the system message is set" if rest else "there is no system message"

    def on_save(self, rest: str) -> str:
        path = _path(rest, "save")
        saved = as_object(_Saved(tuple(self.messages), self.system))
        text = json.dumps(saved, ensure_ascii=False, indent=1)
        try:
            # Other users must not be able to read the conversation.
            write_output(path, f"{text}\n".encode(), 0o600)
        except click.ClickException as error:
            raise CommandError(error.message) from None
        return f"{len(self.messages)} messages in {path}"

    def on_load(self, rest: str) -> str:
        path = _path(rest, "load")
        try:
            if path.stat().st_size > _MAX_FILE_BYTES:
                raise CommandError(f"{path} is larger than {_MAX_FILE_BYTES >> 20} MiB")
            saved = from_object(_Saved, json.loads(path.read_text(encoding="utf-8")))
            if any(message.role not in _ROLES for message in saved.messages):
                raise ValueError
        except OSError as error:
            raise CommandError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError):
            raise CommandError(f"{path} does not contain a conversation that /save wrote") from None
        self.system, self.messages = saved.system, list(saved.messages)
        return f"{len(self.messages)} messages from {path}"

    def on_stats(self, _rest: str) -> str:
        self.has_stats = not self.has_stats
        return "figures are shown" if self.has_stats else "figures are hidden"

    def on_seed(self, rest: str) -> str:
        if not rest:
            self.options["seed"] = None
            return "each answer gets a random seed"
        if not rest.isdecimal() or int(rest) >= 1 << 63:
            raise CommandError(f"/seed {rest}: a whole number from 0 to 2^63-1 is accepted")
        self.options["seed"] = int(rest)
        return f"seed {rest}"

    def on_temp(self, rest: str) -> str:
        try:
            temperature = float(rest)
        except ValueError:
            temperature = -1.0
        if not 0.0 <= temperature <= 100.0:
            raise CommandError(f"/temp {rest}: a number from 0 to 100 is accepted")
        self.options["temperature"] = temperature
        return f"temperature {temperature:g}"

    def on_quit(self, _rest: str) -> str:
        self.is_over = True
        return ""


def _path(text: str, command: str) -> Path:
    if not text:
        raise CommandError(f"/{command} needs the name of a file")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise CommandError(f"{text}: this machine has no such user") from error
