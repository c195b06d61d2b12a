from pathlib import Path

import pytest
from click.testing import CliRunner

from airdraft.nodes.api import ChatMessage
from airdraft.nodes.cli.chat.conversation import CommandError, Conversation
from airdraft.nodes.cli.main import cli


def talk() -> Conversation:
    made = Conversation({"temperature": 0.0}, system="be brief")
    made.answered("hi", "hello")
    return made


def test_a_request_holds_all_that_was_said_and_answered() -> None:
    assert [(m.role, m.content) for m in talk().asked("and?")] == [
        ("system", "be brief"),
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "and?"),
    ]
    made = talk()
    made.answered("and?", "")
    assert len(made.messages) == 2


def test_commands_change_what_comes() -> None:
    made = talk()
    assert "/temp X" in made.command("/help")
    made.command("/temp 0.7")
    made.command("/seed 5")
    assert made.options == {"temperature": 0.7, "seed": 5}
    made.command("/seed")
    assert made.options["seed"] is None
    made.command("/system be rude")
    made.command("/reset")
    assert made.asked("x") == (ChatMessage("system", "be rude"), ChatMessage("user", "x"))
    made.command("/system")
    assert made.asked("x") == (ChatMessage("user", "x"),)
    assert made.command("/stats") == "figures are shown"
    assert made.command("/stats") == "figures are hidden"
    assert not made.is_over
    made.command("/quit")
    assert made.is_over


def test_a_conversation_is_kept_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    assert talk().command(f"/save {path}") == f"2 messages in {path}"
    assert path.stat().st_mode & 0o077 == 0
    other = Conversation({})
    assert other.command(f"/load {path}") == f"2 messages from {path}"
    assert other.asked("x") == talk().asked("x")
    # A file may lack what is empty.
    path.write_text('{"messages": []}')
    other.command(f"/load {path}")
    assert other.asked("x") == (ChatMessage("user", "x"),)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/foo", "unknown command /foo"),
        ("/temp warm", "a number from 0 to 100"),
        ("/temp nan", "a number from 0 to 100"),
        ("/seed -1", "a whole number"),
        ("/seed 9999999999999999999999", "a whole number"),
        ("/save", "needs the name of a file"),
        ("/save /nonexistent/x", "No such file or directory"),
        ("/load /nonexistent/x", "cannot be read"),
        ("/save ~nobody-here/x", "no such user"),
    ],
)
def test_wrong_commands_say_what_is_accepted(line: str, says: str) -> None:
    made = talk()
    with pytest.raises(CommandError, match=says):
        made.command(line)
    assert made.asked("x") == talk().asked("x")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "\xff",
        '{"messages": 3}',
        '{"messages": [{"role": "user"}]}',
        '{"messages": [{"role": "oracle", "content": "x"}]}',
        '{"messages": [3]}',
        '{"messages": [], "system": 3}',
    ],
)
def test_other_files_change_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content.encode("latin-1"))
    made = talk()
    with pytest.raises(CommandError):
        made.command(f"/load {path}")
    assert made.asked("x") == talk().asked("x")


def test_a_conversation_that_cannot_be_loaded_ends_the_command() -> None:
    result = CliRunner().invoke(cli, ["chat", "--load", "/nonexistent/x"])
    assert result.exit_code == 2
    assert "--load: /nonexistent/x cannot be read" in result.stderr
