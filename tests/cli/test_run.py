import json
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from airdraft.nodes.catalog import DEFAULT_TARGET
from airdraft.nodes.engine.traits import SamplingDefaults
from tests.cli.commands import LIMIT_S, Commands, error_line, stopped, wait_until
from tests.nodes.api.toy_mesh import alone

GREEDY = ("--temperature", "0")
TOYS = ("--model", "toy:1", "--draft", "toy:0.8")
# A text takes seconds, and the draft node is ready while most of it is still to come.
SLOW = ("--model", "toy:1@10ms", "--draft", "toy:0.8")
FIGURES = {
    *("num_rounds", "num_draft_tokens", "num_accepted_tokens"),
    *("wire_bytes", "time_s", "exact", "emulated"),
}
LONG = 6000


def answer(commands: Commands, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(commands.printed("run", *GREEDY, *arguments, "--json"))
    return found


# -- answers ---------------------------------------------------------------------------------------


def test_every_gamma_gives_the_tokens_of_plain_decoding(commands: Commands) -> None:
    expected = alone("hi", 400)
    for gamma in ("0", "1", "4", "8", "auto"):
        found = answer(commands, *SLOW, "hi", "--max-tokens", "400", "--gamma", gamma)
        assert tuple(found["token_ids"]) == expected.token_ids
        assert found["text"].encode() == expected.text
        assert set(found) >= FIGURES
        assert (found["finish_reason"], found["exact"]) == ("length", True)
        assert found["wire_bytes"] > 0
        if gamma in "148":
            assert 0 < found["num_accepted_tokens"] <= found["num_draft_tokens"]
            assert found["num_rounds"] > 0
        if gamma == "0":
            assert (found["num_rounds"], found["num_draft_tokens"]) == (0, 0)
            assert "the request asks for none" in found["plain_reason"]


def test_settings_in_the_environment_are_not_those_of_the_private_mesh(commands: Commands) -> None:
    # They are for nodes and clients of another mesh.
    environ = {"AIRDRAFT_NAME": "board", "AIRDRAFT_ENGINE__VOCABULARY": "tokens.gguf"}
    options = ("hi", "--max-tokens", "8", "--json")
    found = json.loads(commands.printed("run", *GREEDY, *TOYS, *options, **environ))
    assert tuple(found["token_ids"]) == alone("hi", 8).token_ids


def test_several_streams_are_the_choices_of_one_seed(commands: Commands) -> None:
    options = ("hi", "--max-tokens", "40", "--temperature", "0.9", "--seed", "5")
    found = answer(commands, *TOYS, *options, "--gamma", "4", "--streams", "3")
    assert set(found) >= FIGURES
    assert found["seed"] == 5
    for choice, stream in enumerate(found["streams"]):
        left_open = {**asdict(SamplingDefaults()), "temperature": 0.9}
        expected = alone("hi", 40, **left_open, seed=5, choice=choice)
        assert tuple(stream["token_ids"]) == expected.token_ids
        assert stream["text"].encode() == expected.text
    assert found["num_rounds"] == sum(s["num_rounds"] for s in found["streams"])


def test_without_a_draft_model_there_is_lookup(commands: Commands) -> None:
    options = ("hi", "--max-tokens", "48", "--gamma", "4")
    found = answer(commands, "--model", "toy:1", "--draft", "none", *options)
    assert tuple(found["token_ids"]) == alone("hi", 48).token_ids
    # Guesses come from the target: nothing goes to a draft node.
    assert found["num_rounds"] > 0
    assert found["draft_wire_bytes"] == 0


def test_a_prompt_of_a_dash_is_read_from_standard_input(commands: Commands) -> None:
    options = (*GREEDY, *TOYS, "--max-tokens", "8", "--json")
    found = json.loads(commands.printed("run", "-", *options, given="hi"))
    assert tuple(found["token_ids"]) == alone("hi", 8).token_ids


def test_a_text_is_printed_as_it_comes_and_figures_go_to_stderr(commands: Commands) -> None:
    arguments = ("run", *TOYS, *GREEDY, "hi", "--max-tokens", "20", "--seed", "3")
    done = commands.run(*arguments, "--stop", "15", "--gamma", "4")
    assert done.returncode == 0
    text = alone("hi", 20).text.decode()
    assert done.stdout == text[: text.index("15")] + "\n"
    assert "exact: true, emulated, seed 3" in done.stderr


@pytest.mark.model
def test_models_that_do_not_fit_are_refused(commands: Commands) -> None:
    done = commands.run("run", "--draft", "toy:0.8", "--beside", "hi")
    line = error_line(done)
    assert line.startswith("vocabularies differ: ")
    assert "toy-0.8" in line
    assert "SmolLM2" in line or DEFAULT_TARGET in line


def test_a_mesh_without_keys_is_at_a_socket_of_its_user_where_all_commands_look(
    commands: Commands,
) -> None:
    # A user's runtime directory, with a path as short as it is.
    with tempfile.TemporaryDirectory(prefix="run-") as folder:
        runtime = {"XDG_RUNTIME_DIR": folder}
        endpoint = f"ipc://{folder}/airdraft/mesh.sock"
        # Whichever is first.
        with (
            commands.started("target", "--model", "toy:1", **runtime),
            commands.listening("coordinator", **runtime) as (coordinator, there),
        ):
            assert there == endpoint
            wait_until(lambda: "target" in commands.run("nodes", "list", **runtime).stdout)
            commands.printed("top", "--json", **runtime)
            # A second one does not take its place.
            assert endpoint in error_line(commands.run("coordinator", **runtime))
            assert "every user" not in stopped(coordinator)


def test_where_every_user_of_the_machine_may_join_it_is_said(
    commands: Commands, tmp_path: Path
) -> None:
    listen = ("--listen", "tcp://127.0.0.1:*")
    keys = ("--keys", str(tmp_path / "keys"))
    commands.printed("keys", "init", *keys)
    for command, num_warnings in (
        (("coordinator",), 1),
        (("serve", *TOYS, "--no-http"), 1),
        (("coordinator", *keys), 0),
    ):
        with commands.listening(*command, *listen) as (process, _):
            assert stopped(process).count("every user of this machine") == num_warnings


# -- signals and deaths ----------------------------------------------------------------------------


def begin(process: subprocess.Popen[str]) -> str:
    """Wait for the first text of a run; it blocks then, as nobody reads on."""
    assert process.stdout is not None
    # Past the file object, whose buffer communicate() would not see.
    return os.read(process.stdout.fileno(), 1).decode()


def one_pid(commands: Commands, role: str) -> int:
    (pid,) = commands.alive(role)
    return pid


LONG_RUN = ("run", *TOYS, "--beside", *GREEDY, "hi", "--max-tokens", str(LONG), "--gamma", "4")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_signal_ends_all_processes_of_a_run(
    commands: Commands, number: signal.Signals, code: int
) -> None:
    with commands.started(*LONG_RUN) as process:
        begin(process)
        assert sorted(commands.alive().values()) == ["draft", "run", "target"]
        assert stopped(process, number, code) == ""
        wait_until(lambda: not commands.alive())
    if number == signal.SIGKILL:
        # A killed process cannot remove its socket's folder.
        for folder in commands.tmp.iterdir():
            shutil.rmtree(folder)


def test_a_draft_that_is_killed_costs_no_token(commands: Commands) -> None:
    with commands.started(*LONG_RUN) as process:
        text = begin(process)
        os.kill(one_pid(commands, "draft"), signal.SIGKILL)
        wait_until(lambda: not commands.alive("draft"))
        rest, errors = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0
        assert (text + rest).encode() == alone("hi", LONG).text + b"\n"
        assert "the draft node ended (SIGKILL)" in errors
        assert "exact: true" in errors


# -- nodes that stay -------------------------------------------------------------------------------

UP = ("serve", *TOYS, "--beside", "--listen", "tcp://127.0.0.1:*", "--no-http")


def test_a_second_signal_ends_the_nodes_at_once_and_leaves_nothing(commands: Commands) -> None:
    with commands.listening(*UP) as (process, _):
        # Nodes that cannot end by themselves.
        for role in ("target", "draft"):
            os.kill(one_pid(commands, role), signal.SIGSTOP)
        files = Path(f"/proc/{process.pid}/fd")
        num_open = len(list(files.iterdir()))
        process.send_signal(signal.SIGINT)
        # It has heard it when it has closed the pipes by which its nodes know.
        wait_until(lambda: len(list(files.iterdir())) < num_open)
        stopped(process, signal.SIGINT, 130)
        assert commands.alive() == {}
