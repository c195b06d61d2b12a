import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from airdraft.nodes.api import Client, ConnectionLostError, Piece
from airdraft.nodes.cli.chat.conversation import Conversation
from airdraft.nodes.cli.chat.terminal import Terminal
from airdraft.nodes.engine.traits import SAMPLING_NAMES
from airdraft.nodes.messages import NodeFields
from tests.cli.at_terminal import at_terminal
from tests.cli.commands import Commands
from tests.nodes.api.conftest import mesh
from tests.nodes.api.toy_mesh import ToyMesh
from tests.nodes.held import held

__all__ = ["mesh"]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(
    stdin: io.TextIOBase, connect: Callable[[], Any], out: io.StringIO | None = None, **options: Any
) -> tuple[int, str, str, Conversation]:
    """Exit code, what is printed and what is said beside it, and the conversation."""
    conversation = Conversation(options)
    out, err = out or io.StringIO(), io.StringIO()
    streams: Any = {"stdin": stdin, "stdout": out, "stderr": err}
    code = Terminal(conversation, connect, **streams).run()
    return code, out.getvalue(), err.getvalue(), conversation


@pytest.mark.parametrize(
    ("typed", "code", "num_answers", "questions", "says"),
    [
        (b"hello\n\n//slash\n", 0, 2, ["hello", "/slash"], ""),
        (b"/stats\nhello\n", 0, 1, ["hello"], "figures are shown\n[6 tokens, "),
        (b"/quit\nhello\n", 0, 0, [], ""),
        (b"/foo\nhello\n", 1, 0, [], "error: unknown command /foo: /help lists the commands\n"),
        (b"\xff\n", 1, 0, [], "error: the line is not valid UTF-8\n"),
    ],
    ids=["lines", "figures", "quit", "first error", "no text"],
)
def test_from_a_pipe_each_line_is_a_turn(
    mesh: ToyMesh, typed: bytes, code: int, num_answers: int, questions: list[str], says: str
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(typed), encoding="utf-8")
    ended, out, err, talk = run(stdin, lambda: Client(mesh.endpoint), max_tokens=6)
    assert (ended, len(out.splitlines())) == (code, num_answers)
    assert [m.content for m in talk.messages[::2]] == questions
    assert err.startswith(says)
    assert bool(err) is bool(says)


class Broken:
    """A client whose answers break off."""

    def __init__(self, error: BaseException, begin: Callable[[], None] = lambda: None) -> None:
        self.error = error
        self.begin = begin
        self.is_closed = False

    def stream_chat(self, _messages: Any, **_options: Any) -> AbstractContextManager[Any]:
        return nullcontext(self.pieces())

    def pieces(self) -> Iterator[Piece]:
        self.begin()
        yield Piece("half\x1b[2J")
        raise self.error

    def close(self) -> None:
        self.is_closed = True


def interactive(clients: list[Any], text: str) -> tuple[str, str, Conversation]:
    code, out, err, talk = run(Screen(text), lambda: clients.pop(0), Screen())
    assert code == 0
    return out, err, talk


def test_an_answer_that_is_stopped_is_kept_as_far_as_it_came() -> None:
    out, _, talk = interactive([Broken(KeyboardInterrupt())], "one\n")
    # Nothing of it reaches the terminal as a command.
    assert out == "half[2J [stopped]\n"
    assert [m.role for m in talk.messages] == ["user", "assistant"]


def test_a_lost_connection_is_made_anew_with_the_next_line() -> None:
    lost, again = Broken(ConnectionLostError("gone")), Broken(KeyboardInterrupt())
    _, err, talk = interactive([lost, again], "one\ntwo\n")
    assert "error: gone" in err
    assert (lost.is_closed, again.is_closed) == (True, True)
    assert len(talk.messages) == 4


def test_an_answer_that_has_to_wait_for_the_coordinator_says_so() -> None:
    err = io.StringIO()
    streams: Any = {"stdin": io.StringIO("hello\n"), "stdout": io.StringIO(), "stderr": err}
    terminal = Terminal(Conversation({}), lambda: waiting, **streams)
    waiting: Any = Broken(KeyboardInterrupt(), terminal.waits)
    assert terminal.run() == 0
    assert err.getvalue().strip() == (
        "[the coordinator was lost: the answer continues when it is back; Ctrl-C stops it]"
    )


def test_ctrl_c_stops_the_answer_and_ctrl_d_leaves(mesh: ToyMesh, commands: Commands) -> None:
    asked = ("chat", "--connect", mesh.endpoint, "--temperature", "0", "--max-tokens", "4000")
    with at_terminal(commands, *asked, term="dumb") as chat:
        chat.wait_for("Ctrl-D quits.")
        chat.wait_for("> ")
        with held(mesh.model, after_passes=20):
            chat.type("hello\n")
            chat.wait_for(" 72")
            chat.type("\x03")
            chat.wait_for("[stopped]")
        chat.wait_for("> ")
        # At the prompt it drops what was typed.
        chat.type("abc")
        chat.wait_for("abc")
        chat.press_until("\x03", "\n> ")
        chat.type("/seed 5\n")
        chat.wait_for("seed 5\r\n")
        # Between two prompts the terminal reads lines, and a Ctrl-D there may be lost.
        chat.wait_for("> ")
        chat.type("\x04")
        chat.ends_with(0)


def test_sampling_is_not_guessed_while_no_target_is_there() -> None:
    """The model's own defaults, which come back with its target, would make another text."""

    class Empty(Broken):
        def nodes(self) -> tuple[NodeFields, ...]:
            return ()

    client, open_ones = Empty(KeyboardInterrupt()), dict.fromkeys(SAMPLING_NAMES)
    _, out, err, _ = run(Screen("hello\n"), lambda: client, Screen(), **open_ones)
    assert "error: no target that generates text is present" in err
    assert out == ""
