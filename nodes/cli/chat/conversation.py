"""What has been said in a chat, and the /commands that change it. No terminal, no mesh."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nodes.api import ChatMessage, Options
from nodes.cli.output_file import write_output

_MAX_FILE_BYTES = 16 << 20
_ROLES = ("system", "user", "assistant")

HELP = """\
/help            this list
/reset           forget what has been said; the system message stays
/system TEXT     what the model is told first; without TEXT, nothing
/save FILE       write the conversation to a file
/load FILE       go on with a conversation from a file
/stats           show or hide speed and acceptance after each answer
/seed N          repeat texts by this seed; without N, another one each time
/temp X          temperature; 0 always takes the likeliest token
/quit            leave, as Ctrl-D does
Ctrl-C stops an answer. A line that shall begin with / is written with two."""


class CommandError(Exception):
    """A /command is wrong; the text says what is accepted."""


@dataclass(slots=True)
class Conversation:
    """messages: of user and assistant in turns, without the system message."""

    options: Options
    system: str = ""
    has_stats: bool = False
    messages: list[ChatMessage] = field(default_factory=list)
    is_over: bool = False

    def asked(self, text: str) -> tuple[ChatMessage, ...]:
        """The messages of a request: all that was said, and this."""
        first = (ChatMessage("system", self.system),) if self.system else ()
        return (*first, *self.messages, ChatMessage("user", text))

    def answered(self, text: str, answer: str) -> None:
        """Keep a turn. One that was stopped before any answer is as if it had not been."""
        if answer:
            self.messages += (ChatMessage("user", text), ChatMessage("assistant", answer))

    def command(self, line: str) -> str:
        """Carry out a line that begins with /; what is to be shown. Raises CommandError."""
        word, _, rest = line.removeprefix("/").partition(" ")
        found = _COMMANDS.get(word)
        if found is None:
            raise CommandError(f"unknown command /{word}: /help lists them")
        return found(self, rest.strip())

    def _help(self, _rest: str) -> str:
        return HELP

    def _reset(self, _rest: str) -> str:
        self.messages.clear()
        return "forgotten"

    def _set_system(self, rest: str) -> str:
        self.system = rest
        return "the system message is set" if rest else "there is no system message"

    def _save(self, rest: str) -> str:
        path = _path(rest, "save")
        said = [{"role": m.role, "content": m.content} for m in self.messages]
        text = json.dumps({"system": self.system, "messages": said}, ensure_ascii=False, indent=1)
        try:
            # What was said is nobody else's to read.
            write_output(path, f"{text}\n".encode(), 0o600)
        except OSError as error:
            raise CommandError(f"{path} cannot be written: {error.strerror}") from None
        return f"{len(said)} messages in {path}"

    def load(self, rest: str) -> str:
        path = _path(rest, "load")
        try:
            if path.stat().st_size > _MAX_FILE_BYTES:
                raise CommandError(f"{path} is larger than {_MAX_FILE_BYTES >> 20} MiB")
            found = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CommandError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError):
            raise CommandError(f"{path} is not JSON that /save wrote") from None
        system, messages = _said(found, path)
        self.system, self.messages = system, messages
        return f"{len(messages)} messages from {path}"

    def _stats(self, _rest: str) -> str:
        self.has_stats = not self.has_stats
        return "figures are shown" if self.has_stats else "figures are hidden"

    def _seed(self, rest: str) -> str:
        if not rest:
            self.options["seed"] = None
            return "each answer has a seed of its own"
        if not rest.isdecimal() or int(rest) >= 1 << 63:
            raise CommandError(f"/seed {rest}: a whole number from 0 to 2^63-1 is accepted")
        self.options["seed"] = int(rest)
        return f"seed {rest}"

    def _temperature(self, rest: str) -> str:
        try:
            temperature = float(rest)
        except ValueError:
            temperature = -1.0
        if not 0.0 <= temperature <= 100.0:
            raise CommandError(f"/temp {rest}: a number from 0 to 100 is accepted")
        self.options["temperature"] = temperature
        return f"temperature {temperature:g}"

    def _quit(self, _rest: str) -> str:
        self.is_over = True
        return ""


_COMMANDS: dict[str, Callable[[Conversation, str], str]] = {
    "help": Conversation._help,
    "reset": Conversation._reset,
    "system": Conversation._set_system,
    "save": Conversation._save,
    "load": Conversation.load,
    "stats": Conversation._stats,
    "seed": Conversation._seed,
    "temp": Conversation._temperature,
    "quit": Conversation._quit,
}


def _path(text: str, command: str) -> Path:
    if not text:
        raise CommandError(f"/{command} needs the name of a file")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise CommandError(f"{text}: this machine has no such user") from error


def _said(found: Any, path: Path) -> tuple[str, list[ChatMessage]]:
    """System message and messages of a file. Raises CommandError."""
    wrong = CommandError(f"{path} holds no conversation that /save wrote")
    if not isinstance(found, dict) or not isinstance(found.get("messages"), list):
        raise wrong
    system, messages = found.get("system", ""), []
    for item in found["messages"]:
        role = item.get("role") if isinstance(item, dict) else None
        content = item.get("content") if isinstance(item, dict) else None
        if role not in _ROLES or not isinstance(content, str):
            raise wrong
        messages.append(ChatMessage(role, content))
    if not isinstance(system, str):
        raise wrong
    return system, messages
