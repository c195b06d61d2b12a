"""`airdraft serve` when its nodes die, and however it ends itself."""

import json
import os
import re
import resource
import signal
import socket
from functools import partial
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from airdraft.nodes.cli.main import cli
from tests.cli.commands import LIMIT_S, Commands, error_line, stopped, told, wait_until
from tests.nodes.api.toy_mesh import alone

# A passing test needs a few seconds of a fast machine.
pytestmark = pytest.mark.timeout(300)

TOYS = ("--model", "toy:1", "--draft", "toy:0.8", "--listen", "tcp://127.0.0.1:*")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGKILL, -9)]
)
def test_nothing_is_left_of_one_that_ends_while_a_node_starts_again(
    commands: Commands, number: signal.Signals, code: int
) -> None:
    with commands.listening("serve", *TOYS, "--no-http") as (process, _):
        (target,) = commands.alive("target")
        os.kill(target, signal.SIGKILL)
        assert process.stderr is not None
        # It says before how long texts can be.
        said = next(
            line for line in process.stderr if not re.search(" WARNING |one text can", line)
        )
        assert said == "the target node ended (SIGKILL): starting it again\n"
        stopped(process, number, code)
        # Nodes whose manager was killed end by themselves.
        wait_until(lambda: commands.alive() == {})


def test_one_that_nohup_started_outlives_its_terminal(commands: Commands) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with commands.listening("serve", *TOYS, "--no-http") as (process, _):
            process.send_signal(signal.SIGHUP)
            stopped(process, signal.SIGTERM, 0)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_serve_takes_the_options_that_other_servers_have(commands: Commands) -> None:
    options = ("-md", "toy:0.8", "-c", "4096", "-t", "1", "-ngl", "0", "--port", "0")
    listen = ("--listen", "tcp://127.0.0.1:*")
    with commands.started("serve", "toy:1", *options, *listen) as process:
        told(process, "listening on ")
        url = told(process, "OpenAI API at ")
        # A machine that is too busy may lose its target for a moment.
        models = partial(httpx.get, f"{url}/models", timeout=LIMIT_S)
        wait_until(lambda: len(models().json()["data"]) == 1)
        stopped(process)


@pytest.mark.parametrize("typed", [("nothing",), ("--model", "nothing")])
def test_a_model_on_the_command_line_goes_before_one_in_the_file(
    commands: Commands, typed: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "serve.toml"
    path.write_text('port = 0\n[engine]\nmodel = "someone/something:Q8_0"\n')
    options = ("--config", str(path), "--listen", f"ipc://{tmp_path}/mesh")
    done = commands.run("serve", *typed, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown model 'nothing'")


def test_a_mesh_that_runs_there_is_named_before_models_are_looked_for(
    commands: Commands, tmp_path: Path
) -> None:
    options = ("--listen", f"ipc://{tmp_path}/mesh", "--no-http")
    with commands.started("serve", "--model", "toy:1", "--draft", "none", *options) as process:
        assert process.stdout is not None
        process.stdout.readline()
        done = commands.run("serve", "--model", "nothing", *options)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: a mesh already runs on this machine")
        stopped(process)


def test_a_file_and_the_environment_have_the_settings_of_a_mesh(
    commands: Commands, tmp_path: Path
) -> None:
    path = tmp_path / "serve.toml"
    path.write_text(
        'listen = "tcp://127.0.0.1:*"\nhttp = false\nprompt_lookup = false\n'
        '[engine]\nmodel = "toy:1"\ndraft = "toy:0.8"\n'
    )
    serve, given = ("serve", "--config", str(path)), {"AIRDRAFT_ENGINE__DRAFT": "none"}
    with commands.listening(*serve, **given) as (process, endpoint):
        # Nothing is guessed: there is no draft model, and texts are not looked up.
        ask = ("generate", "hi", "--raw", "--max-tokens", "48", "--gamma", "4", "--json")
        found = json.loads(commands.printed(*ask, "--temperature", "0", "--connect", endpoint))
        assert found["num_rounds"] == 0
        assert tuple(found["token_ids"]) == alone("hi", 48).token_ids
        stopped(process)


def test_a_coordinators_port_that_is_taken_is_named_before_models_are_looked_for(
    commands: Commands,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        done = commands.run("serve", "nothing", "--no-http", "--listen", listen)
    assert f"endpoint '{listen}' is in use" in error_line(done)


def test_an_address_that_is_taken_is_named_before_models_are_looked_for(commands: Commands) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = commands.run("serve", "nothing", "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"cannot serve HTTP on 127.0.0.1:{port}: Address already in use" in done.stderr


def test_a_mesh_without_http_may_open_as_many_files_as_the_machine_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = min(512, before[1] - 1), before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, few)
    try:
        missing = str(tmp_path / "missing.gguf")
        CliRunner().invoke(cli, ["serve", "--model", missing, "--draft", "none", "--no-http"])
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
