from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from nodes.catalog import DEFAULT_TARGET, Catalog, CatalogError, default_cache_dir
from nodes.engine.sampling import Sampling
from nodes.engine.toy import ToyConfig, ToyTokenizer
from nodes.engine.traits import SamplingDefaults
from tests.cli.commands import LIMIT_S, Commands, wait_until
from tests.nodes.reference import Reference, reference

GREEDY = ("--temperature", "0")
TOYS = ("--model", "toy:1", "--draft", "toy:0.8")
# A text takes seconds, and the draft node is ready while most of it is still to come.
SLOW = ("--model", "toy:1@10ms", "--draft", "toy:0.8")
FIGURES = {
    "num_rounds",
    "num_draft_tokens",
    "num_accepted_tokens",
    "wire_bytes",
    "time_s",
    "exact",
    "emulated",
}
LONG = 6000


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    """Commands of which nothing may be left at the end, neither processes nor files."""
    made = Commands(tmp_path)
    try:
        yield made
        assert made.alive() == {}
        assert list(made.tmp.iterdir()) == []
    finally:
        made.kill_all()


def alone(prompt: str, max_tokens: int, sampling: Sampling | None = None) -> Reference:
    config = ToyConfig()
    ids = ToyTokenizer(config.num_vocab).encode(prompt)
    return reference(config, ids, sampling or Sampling(), max_tokens=max_tokens)


def answer(commands: Commands, *arguments: str) -> dict[str, Any]:
    done = commands.run("run", *GREEDY, *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that failed."""
    assert done.returncode != 0
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line.removeprefix("error: ")


# -- answers ---------------------------------------------------------------------------------------


def test_every_gamma_gives_the_tokens_of_plain_decoding(commands: Commands) -> None:
    expected = alone("hi", 400)
    for gamma in ("0", "1", "4", "8", "auto"):
        found = answer(commands, *SLOW, "--prompt", "hi", "--max-tokens", "400", "--gamma", gamma)
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
            assert found["plain_reason"].startswith("draft off: ")


def test_several_streams_are_the_choices_of_one_seed(commands: Commands) -> None:
    options = ("--prompt", "hi", "--max-tokens", "40", "--temperature", "0.9", "--seed", "5")
    found = answer(commands, *TOYS, *options, "--gamma", "4", "--streams", "3")
    assert set(found) >= FIGURES
    assert found["seed"] == 5
    for choice, stream in enumerate(found["streams"]):
        left_open = {**asdict(SamplingDefaults()), "temperature": 0.9}
        expected = alone("hi", 40, Sampling(**left_open, seed=5, choice=choice))
        assert tuple(stream["token_ids"]) == expected.token_ids
        assert stream["text"].encode() == expected.text
    one = answer(commands, *TOYS, *options, "--gamma", "0")
    assert one["token_ids"] == found["streams"][0]["token_ids"]
    assert found["num_rounds"] == sum(s["num_rounds"] for s in found["streams"])


@pytest.mark.parametrize("draft", ["none", "ngram"])
def test_without_a_draft_model(commands: Commands, draft: str) -> None:
    options = ("--prompt", "hi", "--max-tokens", "48", "--gamma", "4")
    found = answer(commands, "--model", "toy:1", "--draft", draft, *options)
    assert tuple(found["token_ids"]) == alone("hi", 48).token_ids
    if draft == "none":
        assert found["plain_reason"] == "draft off: there is no draft node"
    else:
        # Guesses come from the target: nothing goes to a draft node.
        assert found["num_rounds"] > 0
    assert found["draft_wire_bytes"] == 0


def test_a_text_is_printed_as_it_comes_and_figures_go_to_stderr(commands: Commands) -> None:
    arguments = ("run", *TOYS, *GREEDY, "--prompt", "hi", "--max-tokens", "20", "--seed", "3")
    done = commands.run(*arguments, "--stop", "15", "--gamma", "4")
    assert done.returncode == 0
    text = alone("hi", 20).text.decode()
    assert done.stdout == text[: text.index("15")] + "\n"
    assert "exact: true, emulated, seed 3" in done.stderr
    done = commands.run(*arguments, "--streams", "2")
    assert done.stdout == f"--- 0\n{text}\n--- 1\n{text}\n"


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "no-such-model"), "no-such-model"),
        (("--model", "{folder}/none.gguf"), "none.gguf"),
        (("--model", "{folder}/truncated.gguf"), "truncated.gguf"),
        (("--model", "{folder}/text.gguf"), "text.gguf"),
        (("--model", "toy:1", "--draft", "{folder}/text.gguf"), "text.gguf"),
        (("--model", "replay:{folder}/none.toml", "--draft", "none"), "none.toml: no such file"),
        ((*TOYS, "--cells", "256", "--max-tokens", "5000"), "context overflow: 2 prompt tokens"),
        ((*TOYS, "--cells", "256", "--max-tokens", "240"), "+ 16 guesses exceed the 256 cells"),
        ((*TOYS, "--prompt", ""), "the prompt is empty"),
        ((*TOYS, "--priority", "11"), "11 is not in the range 1<=x<=10"),
        ((*TOYS, "--gamma", "17"), "17 is not in the range 0 to 16"),
        ((*TOYS, "--gamma", "-1"), "-1 is not in the range 0 to 16"),
        ((*TOYS, "--gamma", "x"), "'x' is neither a number nor auto"),
        ((*TOYS, "--prompt-file", "{folder}/none.txt", "--prompt"), "--prompt"),
        ((*TOYS, "--no-such-option"), "--no-such-option"),
    ],
)
def test_bad_input_is_one_line_that_names_it(
    commands: Commands, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "text.gguf").write_text("this is not a model\n" * 100)
    # Magic, version 3, 200 tensors and 20 keys announced; then nothing.
    header = b"GGUF" + b"".join(
        n.to_bytes(size, "little") for n, size in ((3, 4), (200, 8), (20, 8))
    )
    (tmp_path / "truncated.gguf").write_bytes(header)
    prompt = () if "--prompt" in arguments else ("--prompt", "hi")
    filled = [a.format(folder=tmp_path) for a in arguments]
    assert message in error_line(commands.run("run", *prompt, *filled))


def _default_target() -> str | None:
    try:
        return str(Catalog(default_cache_dir(os.environ)).path(DEFAULT_TARGET))
    except CatalogError:
        return None


@pytest.mark.model
@pytest.mark.skipif(_default_target() is None, reason="the default target is not installed")
def test_models_of_different_vocabularies_are_refused_with_both_names(commands: Commands) -> None:
    done = commands.run("run", "--draft", "toy:0.8", "--prompt", "hi", "--max-tokens", "4")
    line = error_line(done)
    assert line.startswith("vocabularies differ: ")
    assert "toy-0.8" in line
    assert "SmolLM2" in line or DEFAULT_TARGET in line


@pytest.mark.model
@pytest.mark.skipif(_default_target() is None, reason="the default target is not installed")
def test_a_model_file_cut_short_is_refused(commands: Commands, tmp_path: Path) -> None:
    path = _default_target()
    assert path is not None
    with open(path, "rb") as file:
        (tmp_path / "half.gguf").write_bytes(file.read(3_000_000))
    model = str(tmp_path / "half.gguf")
    line = error_line(commands.run("run", "--model", model, "--prompt", "hi"))
    assert "half.gguf" in line


def test_a_port_in_use_is_named(commands: Commands) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        for arguments in (("coordinator",), ("up", *TOYS, "--http", "off")):
            assert endpoint in error_line(commands.run(*arguments, "--listen", endpoint))


@pytest.fixture
def runtime() -> Iterator[dict[str, str]]:
    """A user's runtime directory, with a path as short as it is."""
    with tempfile.TemporaryDirectory(prefix="run-") as folder:
        yield {"XDG_RUNTIME_DIR": folder}


@pytest.mark.timeout(240)
def test_a_mesh_without_keys_is_at_a_socket_of_its_user_where_all_commands_look(
    commands: Commands, runtime: dict[str, str]
) -> None:
    endpoint = f"ipc://{runtime['XDG_RUNTIME_DIR']}/airdraft/mesh.sock"
    # Whichever is first.
    with (
        commands.started("target", "--model", "toy:1", **runtime),
        commands.started("coordinator", **runtime) as coordinator,
    ):
        assert coordinator.stdout is not None
        assert coordinator.stdout.readline() == f"listening on {endpoint}\n"
        wait_until(lambda: "target" in commands.run("nodes", "list", **runtime).stdout)
        ask = ("generate", "--prompt", "x", "--raw", "--max-tokens", "4")
        assert commands.run(*ask, **runtime).returncode == 0
        assert commands.run("top", "--json", **runtime).returncode == 0
        # A second one does not take its place.
        assert endpoint in error_line(commands.run("coordinator", **runtime))
        coordinator.terminate()
        _, said = coordinator.communicate(timeout=20)
        assert "every user" not in said


@pytest.mark.timeout(240)
def test_where_every_user_of_the_machine_may_join_it_is_said(
    commands: Commands, tmp_path: Path
) -> None:
    listen = ("--listen", "tcp://127.0.0.1:*")
    for command in (("coordinator",), ("up", *TOYS, "--http", "off")):
        with commands.started(*command, *listen) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("listening on tcp://127.0.0.1:")
            process.terminate()
            _, said = process.communicate(timeout=20)
            lines = [line for line in said.splitlines() if "every user of this machine" in line]
            assert len(lines) == 1
    keys = ("--keys", str(tmp_path / "keys"))
    assert commands.run("keys", "init", *keys).returncode == 0
    with commands.started("coordinator", *listen, *keys) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert "every user" not in process.communicate(timeout=20)[1]


@pytest.mark.parametrize("role", ["target", "draft"])
def test_without_a_coordinator_a_node_gives_up_and_names_the_endpoint(
    commands: Commands, role: str
) -> None:
    arguments = (role, "--connect", "tcp://127.0.0.1:1", "--model", "toy:1")
    done = commands.run(*arguments, AIRDRAFT_JOIN_TIMEOUT_S="1")
    assert "no coordinator answered at tcp://127.0.0.1:1" in error_line(done)
    assert done.returncode == 69


@pytest.mark.parametrize("role", ["coordinator", "target", "draft"])
def test_an_unknown_key_of_a_config_is_named(commands: Commands, tmp_path: Path, role: str) -> None:
    key, near = ("lisen", "listen") if role == "coordinator" else ("conect", "connect")
    config = tmp_path / "node.toml"
    config.write_text(f'{key} = "tcp://127.0.0.1:1"\n')
    done = commands.run(role, "--config", str(config))
    assert error_line(done) == f"{config}: unknown key {key}, did you mean {near}?"
    assert done.returncode == 78


def test_a_limit_of_the_coordinator_is_an_option(commands: Commands) -> None:
    done = commands.run("coordinator", "--max-gateway-requests", "0")
    assert error_line(done) == "limits.max_gateway_requests = 0: 1 to 1048576 is accepted"
    assert done.returncode == 78


def test_an_endpoint_off_loopback_is_refused(commands: Commands) -> None:
    done = commands.run("coordinator", "--listen", "tcp://0.0.0.0:7411")
    assert "tcp://0.0.0.0:7411 is not loopback" in error_line(done)
    assert done.returncode == 78


# -- signals and deaths ----------------------------------------------------------------------------


def begin(process: subprocess.Popen[str]) -> str:
    """Wait for the first text of a run; it blocks then, as nobody reads on."""
    assert process.stdout is not None
    # Past the file object, whose buffer communicate() would not see.
    return os.read(process.stdout.fileno(), 1).decode()


def one_pid(commands: Commands, role: str) -> int:
    (pid,) = commands.alive(role)
    return pid


LONG_RUN = ("run", *TOYS, *GREEDY, "--prompt", "hi", "--max-tokens", str(LONG), "--gamma", "4")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_processes_of_a_run(commands: Commands, number: signal.Signals) -> None:
    with commands.started(*LONG_RUN) as process:
        begin(process)
        assert sorted(commands.alive().values()) == ["draft", "run", "target"]
        process.send_signal(number)
        _, errors = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 128 + number
        assert errors == ""


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


def test_a_target_that_is_killed_ends_the_run_with_a_line(commands: Commands) -> None:
    with commands.started(*LONG_RUN) as process:
        begin(process)
        os.kill(one_pid(commands, "target"), signal.SIGKILL)
        _, errors = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 1
        # Its link breaks and its process ends at the same time: whichever is seen first.
        assert errors in (
            "error: the target node ended (SIGKILL)\n",
            "error: target target left: connection gone\n",
        )


def test_the_nodes_of_a_run_that_is_killed_end_by_themselves(commands: Commands) -> None:
    with commands.started(*LONG_RUN) as process:
        begin(process)
        process.kill()
        process.communicate(timeout=LIMIT_S)
        wait_until(lambda: not commands.alive())
    # A killed process cannot remove its socket's folder.
    for folder in commands.tmp.iterdir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


# -- nodes that stay -------------------------------------------------------------------------------


def endpoint_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().removeprefix("listening on ").strip()


def generate(commands: Commands, endpoint: str, *arguments: str) -> dict[str, Any]:
    done = commands.run("generate", "--connect", endpoint, "--json", *GREEDY, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_mesh_that_is_up_answers_one_client_after_the_other(commands: Commands) -> None:
    with commands.started("up", *TOYS, "--listen", "tcp://127.0.0.1:*", "--http", "off") as process:
        endpoint = endpoint_of(process)
        for prompt, gamma in (("hi", "4"), ("ho", "0")):
            options = ("--prompt", prompt, "--max-tokens", "30", "--gamma", gamma)
            found = generate(commands, endpoint, *options)
            assert tuple(found["token_ids"]) == alone(prompt, 30).token_ids
        refused = commands.run(
            "generate", "--connect", endpoint, "--prompt", "hi", "--max-tokens", "9999"
        )
        assert "context overflow" in error_line(refused)
        # Of 900 tokens the toy needs more time than that.
        late = commands.run(
            *("generate", "--connect", endpoint, "--prompt", "hi", "--max-tokens", "900"),
            *("--streams", "16", "--timeout", "0.01"),
        )
        assert error_line(late) == "the request was not done within its 0.01 s"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT_S)
        assert process.returncode == 130


def test_a_second_signal_ends_the_nodes_at_once_and_leaves_nothing(commands: Commands) -> None:
    with commands.started("up", *TOYS, "--listen", "tcp://127.0.0.1:*", "--http", "off") as process:
        endpoint_of(process)
        # Nodes that cannot end by themselves.
        nodes = [one_pid(commands, role) for role in ("target", "draft")]
        for pid in nodes:
            os.kill(pid, signal.SIGSTOP)
        files = Path(f"/proc/{process.pid}/fd")
        num_open = len(list(files.iterdir()))
        process.send_signal(signal.SIGINT)
        # It has heard it when it has closed the pipes by which its nodes know.
        wait_until(lambda: len(list(files.iterdir())) < num_open)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT_S)
        assert process.returncode == 130
        assert commands.alive() == {}
        assert list(commands.tmp.glob("airdraft-*")) == []


def test_three_nodes_with_config_files(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "coordinator.toml").write_text('listen = "tcp://127.0.0.1:*"\ncluster = "home"\n')
    config = str(tmp_path / "coordinator.toml")
    with commands.started("coordinator", "--config", config) as coordinator:
        endpoint = endpoint_of(coordinator)
        for role, model in (("target", "toy:1@10ms"), ("draft", "toy:0.8")):
            (tmp_path / f"{role}.toml").write_text(
                f'connect = "{endpoint}"\nname = "my-{role}"\n[engine]\nmodel = "{model}"\n'
            )
        with (
            commands.started("target", "--config", str(tmp_path / "target.toml"), "-v") as target,
            commands.started("draft", "--config", str(tmp_path / "draft.toml"), "-v") as draft,
        ):
            for node, name in ((target, "my-target"), (draft, "my-draft")):
                assert node.stderr is not None
                assert f"joined cluster home as {name}" in node.stderr.readline()
            options = ("--prompt", "hi", "--max-tokens", "400", "--gamma", "4")
            found = generate(commands, endpoint, *options)
            assert tuple(found["token_ids"]) == alone("hi", 400).token_ids
            assert found["num_rounds"] > 0
            for process in (draft, target, coordinator):
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=LIMIT_S)
                assert process.returncode == 0
