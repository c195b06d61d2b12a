"""Ways on the same cores: how they are started and stopped, and what a run writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.equal_cores.command import equal_cores_command
from bench.equal_cores.ways import AIRDRAFT, Place, Way, wait_until_open
from bench.harness.fleet import FleetError
from bench.harness.processes import free_port, tree
from bench.results.schema import Run, Skipped, Turn, from_lines

CPU = min(os.sched_getaffinity(0))
PLACE = Place("toy:1", "toy:0.8", 1, (CPU,))


def test_all_processes_of_a_way_are_bound_to_its_cores():
    (plain,) = (way for way in AIRDRAFT if way.name == "plain")
    with plain.started(PLACE) as side:
        pids = tree(side.pid)
        # The command with its coordinator, and its target at least.
        assert len(pids) >= 2
        assert [os.sched_getaffinity(pid) for pid in pids] == [{CPU}] * len(pids)


def test_options_have_the_cores_of_the_place():
    beside = Way("beside", "-md {draft} -t {half} -c {cores}")
    place = Place("toy:1", "toy:0.8", 1, (0, 1, 2))
    assert beside.words(place) == ["-md", "toy:0.8", "-t", "1", "-c", "3"]
    assert beside.words(PLACE) == ["-md", "toy:0.8", "-t", "1", "-c", "1"]


def test_a_way_that_does_not_start_says_why():
    with pytest.raises(FleetError, match="--no-such"), Way("new", "--no-such").started(PLACE):
        pass
    with (
        pytest.raises(FleetError, match="llama: exited with code 1"),
        Way("llama", "", Path("/bin/false")).started(PLACE),
    ):
        pass


def test_a_process_that_ends_or_never_listens_is_an_error():
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    ended.wait()
    with pytest.raises(FleetError, match="exited with code 3"):
        wait_until_open("it", free_port(), ended, 5.0)
    waiting = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with pytest.raises(FleetError, match="did not listen"):
            wait_until_open("it", free_port(), waiting, 0.1)
    finally:
        assert waiting.stdin is not None
        waiting.stdin.close()
        waiting.wait()


@pytest.mark.timeout(120)
def test_a_run_writes_figures_of_each_turn_and_compares_texts(tmp_path):
    out = tmp_path / "out.jsonl"
    options = ["--cells", "toy/chat/2/1", "--ways", "comes,plain", "--turns", "2", "--prompts", "1"]
    options += ["--starts=", "--max-tokens", "8", "--out", str(out)]
    done = CliRunner().invoke(equal_cores_command, [*options, "--llama-server", "/bin/false"])
    assert done.exit_code == 0, done.output
    run, *lines = from_lines(out.read_bytes())
    assert isinstance(run, Run)
    assert run.own == ("as it comes", "plain")
    turns = [line for line in lines if isinstance(line, Turn)]
    assert [(turn.turn, turn.way) for turn in turns] == [
        (turn, way) for turn in (0, 1) for way in run.own
    ]
    # Each of two streams has one text a turn; those without guesses are what others are held to.
    assert [turn.num_compared for turn in turns] == [2, 0, 2, 0]
    assert {(turn.num_texts, turn.num_failed, turn.num_other_texts) for turn in turns} == {
        (2, 0, 0)
    }
    assert all(turn.first_token_s > 0.0 for turn in turns)
    (skipped,) = (line for line in lines if isinstance(line, Skipped))
    assert (skipped.way, skipped.reason) == (
        "llama.cpp, plain",
        "llama.cpp, plain: exited with code 1 while starting",
    )


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ("toy/chat/1", "is not PAIR/WORKLOAD/STREAMS/CORES"),
        ("toy/none/1/1", "is not PAIR/WORKLOAD/STREAMS/CORES"),
        ("toy/chat/0/1", "is not PAIR/WORKLOAD/STREAMS/CORES"),
        ("toy/chat/1/999", "cores are here"),
    ],
)
def test_a_cell_that_cannot_be_measured_is_refused(cells, says):
    wrong = CliRunner().invoke(equal_cores_command, ["--cells", cells])
    assert wrong.exit_code == 2
    assert says in wrong.output
