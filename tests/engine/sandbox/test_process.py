"""The node's side of a sandboxed process: one that ends, is ended, or is of no use."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airdraft.nodes.engine.protocol import InvalidInputError
from airdraft.nodes.engine.sandbox.process import EndedError, SandboxProcess
from tests.cli.commands import wait_until
from tests.engine.printed import is_running, printed
from tests.engine.sandbox.busy import LIMIT_S, judged

pytestmark = pytest.mark.timeout(LIMIT_S)

SIMPLE = {"kind": "gbnf", "text": 'root ::= "a"'}
COSTLY = {"kind": "json_schema", "text": '{"type": "integer", "multipleOf": 4999999}'}
SETUP = {"pieces": [chr(i) for i in range(256)], "eog_ids": [0]}
Make = Callable[..., SandboxProcess]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[SandboxProcess] = []

    def start(duty: str = "grammars", **setup: object) -> SandboxProcess:
        made.append(SandboxProcess(duty, setup or SETUP))
        return made[-1]

    yield start
    for process in made:
        process.close()


def children_of(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(number) for number in path.read_text().split()]


def worker_of(process: SandboxProcess) -> int:
    """The id of its process, which has answered a question."""
    before = children_of(os.getpid())
    process.ask(SIMPLE)
    (worker,) = set(children_of(os.getpid())) - set(before)
    return worker


def test_one_process_is_started_ahead_answers_and_is_replaced_if_it_was_ended(make: Make) -> None:
    process = make()
    before = set(children_of(os.getpid()))
    process.start()
    wait_until(lambda: set(children_of(os.getpid())) - before)
    (worker,) = set(children_of(os.getpid())) - before
    for _ in range(2):
        assert process.ask(SIMPLE)["num_bytes"] > 0
        assert set(children_of(os.getpid())) - before == {worker}
    os.kill(worker, signal.SIGKILL)
    assert process.ask(SIMPLE)["num_bytes"] > 0
    # One that takes too much is ended, and the next is answered.
    with pytest.raises(EndedError):
        judged(lambda: process.ask(COSTLY))
    assert judged(lambda: process.ask(SIMPLE))["num_bytes"] > 0


def test_a_process_that_stood_still_says_nothing_of_the_question(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks may ask again; it is no text or grammar that takes too much."""
    process = make()
    os.kill(worker_of(process), signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr("airdraft.nodes.engine.sandbox.process.ANSWER_LIMIT_S", 0.1)
        with pytest.raises(TimeoutError, match="this machine is busy or was held"):
            process.ask(SIMPLE)
    assert process.ask(SIMPLE)["num_bytes"] > 0


_ANSWER = """
from airdraft.nodes.engine.sandbox import jail
from airdraft.nodes.engine.sandbox.worker import Worker
class Duty:
    memory_bytes, cpu_s, forks = 1 << 28, 2, False
    def answer(self, question):
        return {}
worker, before = Worker(Duty()), jail.address_space_bytes()
worker.answer(b"{}")
print(jail.address_space_bytes() - before)
"""


def test_the_stack_of_a_question_is_free_when_it_is_answered() -> None:
    """Once it was freed later, and on a busy core 6 of 4,000 prompts found no memory."""
    more = int(printed(_ANSWER))
    # A stack has 256 MiB. malloc reserves 64 MiB for a thread.
    assert more < 200 << 20


def test_a_setup_that_is_wrong_is_told_each_time(make: Make, tmp_path: Path) -> None:
    process = make("texts", path=str(tmp_path / "missing.gguf"))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="does not start"):
            process.ask({"text": "hi"})


def test_close_ends_the_process_and_who_waits_for_it(make: Make) -> None:
    process = make()
    worker = worker_of(process)
    ends: list[Exception] = []

    def ask() -> None:
        try:
            process.ask(COSTLY)
        except (EndedError, InvalidInputError) as error:
            ends.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: children_of(worker))
    (forked,) = children_of(worker)
    process.close()
    thread.join()
    assert len(ends) == 1
    assert not is_running(worker)
    wait_until(lambda: not is_running(forked))
    with pytest.raises(InvalidInputError, match="the node is stopping"):
        process.ask(SIMPLE)
    process.close()


_DIE = f"""
import os, signal, pathlib
from airdraft.nodes.engine.sandbox.process import SandboxProcess
process = SandboxProcess("grammars", {SETUP!r})
process.ask({SIMPLE!r})
print(pathlib.Path("/proc/thread-self/children").read_text(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_when_the_parent_is_killed() -> None:
    """It ends with its standard input, which only the parent holds."""
    done = subprocess.run([sys.executable, "-c", _DIE], capture_output=True, check=False)
    worker = int(done.stdout)
    wait_until(lambda: not is_running(worker))


def test_it_has_nothing_of_the_nodes_environment(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRDRAFT_SECRET", "x")
    worker = worker_of(make())
    environ = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
    names = {entry.partition(b"=")[0] for entry in environ if entry}
    assert names <= {
        *(b"LD_LIBRARY_PATH", b"LLAMA_CPP_LIB_PATH", b"PYTHONPATH", b"PYTHONDONTWRITEBYTECODE"),
        *(b"CUDA_VISIBLE_DEVICES", b"OMP_NUM_THREADS", b"OPENBLAS_NUM_THREADS", b"LC_CTYPE"),
    }
    assert Path(f"/proc/{worker}/cwd").readlink() == Path("/")


def test_the_kernel_confines_it(make: Make) -> None:
    worker = worker_of(make())
    status = Path(f"/proc/{worker}/status").read_text()
    told = dict(line.split(":\t", 1) for line in status.splitlines())
    assert (told["NoNewPrivs"], told["Seccomp"]) == ("1", "2")
    assert {int(told[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    # No memory is writable and executable, and only pipes and /dev/null are open.
    maps = Path(f"/proc/{worker}/maps").read_text().splitlines()
    rights = [line.split()[1] for line in maps]
    assert not [right for right in rights if "w" in right and right[2:] != "-p"]
    opened = [str(path.readlink()) for path in Path(f"/proc/{worker}/fd").iterdir()]
    assert sorted(name.partition(":")[0] for name in opened) == ["/dev/null", "pipe", "pipe"]
    # Soft and hard limits are the same.
    for name in ("Max core file size", "Max file size", "Max address space"):
        limits = Path(f"/proc/{worker}/limits").read_text()
        (line,) = [line for line in limits.splitlines() if line.startswith(name)]
        soft, hard = line.removeprefix(name).split()[:2]
        assert soft == hard != "unlimited"


# What a process answers that strangers' input has taken over, after the answer to its setup.
TAKEN_OVER = """
import os, signal, sys
print('{{"is_filtered": true}}', flush=True)
sys.stdin.readline()
while sys.stdin.readline():
    {act}
"""


@pytest.mark.parametrize(
    "act",
    [
        "print('{', flush=True)",
        "print('[' * 100000, flush=True)",
        "print('[1]', flush=True)",
        "print('{}', flush=True)",
        "print('{\"num_bytes\": 1}', flush=True)",
        "os.kill(os.getpid(), signal.SIGSYS)",
    ],
)
def test_a_process_that_was_taken_over_is_ended_and_logged(
    act: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    command = (sys.executable, "-c", TAKEN_OVER.format(act=act))
    monkeypatch.setattr("airdraft.nodes.engine.sandbox.process._COMMAND", command)
    process = SandboxProcess("texts", {}, lambda answer: "token_ids" in answer)
    before = children_of(os.getpid())
    with pytest.raises(EndedError):
        process.ask({"text": "hi"})
    assert children_of(os.getpid()) == before
    assert "the sandboxed process for texts made a forbidden system call" in caplog.text
    process.close()


def test_who_closes_it_does_not_wait_for_a_start_that_is_under_way(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = make()
    closing = threading.Thread(target=process.close)
    start = subprocess.Popen

    def closed_meanwhile(*args: Any, **options: Any) -> Any:
        closing.start()
        # It waits for this start, or has not begun; either way nothing is answered any more.
        closing.join(0.2)
        return start(*args, **options)

    monkeypatch.setattr(subprocess, "Popen", closed_meanwhile)
    before = children_of(os.getpid())
    with pytest.raises(InvalidInputError, match="the node is stopping"):
        process.ask(SIMPLE)
    closing.join(60)
    assert not closing.is_alive()
    assert children_of(os.getpid()) == before
