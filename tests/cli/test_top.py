"""`airdraft top` on a real mesh of toy models, in a terminal and without one."""

import json

from airdraft.nodes.telemetry.status import decode_status
from tests.cli.at_terminal import at_terminal
from tests.cli.commands import Commands
from tests.nodes.api.toy_mesh import toy_mesh


def test_one_frame_and_the_document_for_scripts(commands: Commands) -> None:
    with toy_mesh() as mesh:
        there = ("--connect", mesh.endpoint)
        asked = ("canary-4711", "--max-tokens", "30", "--raw")
        assert commands.run("generate", *there, *asked).returncode == 0
        once = commands.printed("top", *there, "--once")
        assert "\x1b" not in once
        for part in ("airdraft, up 0:00:", "target", "draft", "PLAN of target", "30 tokens: "):
            assert part in once
        document = commands.printed("top", *there, "--json")
        assert json.loads(document)["totals"]["requests"]["done"] == 1
        assert {n.role for n in decode_status(document.encode()).nodes} == {"target", "draft"}
        assert "canary" not in once + document


def test_live_it_resizes_and_leaves_the_terminal_as_it_was(commands: Commands) -> None:
    with toy_mesh() as mesh:
        top = ("top", "--connect", mesh.endpoint)
        with at_terminal(commands, *top) as terminal:
            assert "IN/OUT" not in terminal.wait_for("STREAM ")
            terminal.resize(30, 150)
            terminal.wait_for("IN/OUT")
            # Each second the clock in the first line is drawn again.
            terminal.wait_for("\x1b[1;")
            terminal.type("q")
            terminal.wait_for("\x1b[?1049l")
            terminal.ends_with(0)
        # A coordinator that stops ends it with a line.
        with at_terminal(commands, *top) as terminal:
            terminal.wait_for("STREAM ")
            mesh.say_bye()
            terminal.wait_for("\x1b[?1049l")
            assert "Traceback" not in terminal.wait_for("error: the coordinator at ")
            terminal.ends_with(69)


def test_a_terminal_of_an_unknown_type_is_refused_with_a_line(commands: Commands) -> None:
    with at_terminal(commands, "top", term="no-such-terminal") as terminal:
        terminal.wait_for("error: the type of this terminal (TERM) is not known: give --once")
        terminal.ends_with(2)
