"""`airdraft trace` on a real mesh of toy models, and one line for all a user can get wrong."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nodes.api import open_client
from nodes.cli.main import cli
from nodes.cli.trace import Recording, poll
from nodes.messages import TraceReply
from nodes.telemetry.trace.records import PassRecord, PlanRecord, from_line, to_line
from policies.baselines import POLICIES
from tests.cli.commands import LIMIT_S, Commands
from tests.nodes.telemetry.trace.examples import FLOW, guessing, plan_record

CANARY = "zebra-4711"


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    made = Commands(tmp_path)
    try:
        yield made
        assert made.alive() == {}
    finally:
        made.kill_all()


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode != 0
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line.removeprefix("error: ")


def test_a_mesh_at_work_is_recorded_drawn_and_planned_anew(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRDRAFT_KEYS", str(tmp_path / "keys"))
    output, raw = tmp_path / "trace.json", tmp_path / "trace.jsonl"
    # Slow enough for the draft node to be ready in time.
    toys = ("--model", "toy:1@5ms", "--draft", "toy:0.8", "--listen", "tcp://127.0.0.1:*")
    with commands.started("up", *toys, "--http", "off") as mesh:
        assert mesh.stdout is not None
        endpoint = mesh.stdout.readline().removeprefix("listening on ").strip()
        files = ("--output", str(output), "--raw", str(raw))
        tracing = commands.started("trace", "--connect", endpoint, "--seconds", "5", *files)
        texts = set()
        with tracing as process, open_client(endpoint) as client:
            # Asked again and again until the recording has ended.
            while process.poll() is None:
                texts.add(client.complete(CANARY, max_tokens=400, gamma=4).text)
            _, summary = process.communicate(timeout=LIMIT_S)
            assert process.returncode == 0
        assert " records: " in summary
        # No text is another for being recorded.
        assert len(texts) == 1
        mesh.send_signal(signal.SIGINT)
        mesh.communicate(timeout=LIMIT_S)
    records = [from_line(line) for line in raw.read_bytes().splitlines()]
    kinds = {type(record).__name__ for record in records}
    assert kinds == {"PlanRecord", "FollowRecord", "GuessRecord", "PassRecord"}
    # Targets say how long passes took, and which guesses they had.
    passes = [record for record in records if isinstance(record, PassRecord)]
    assert all(record.pass_s > 0 for record in passes)
    assert any(stream.num_draft_tokens for record in passes for stream in record.streams)
    trace = json.loads(output.read_text())
    threads = {e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert {"plan in force", "guesses", "pass"} <= threads
    assert any(thread.startswith("stream ") for thread in threads)
    spans = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    assert all(span["dur"] >= 0 for span in spans)
    for file in (output, raw):
        assert CANARY not in file.read_text()
    plans = [r for r in records if isinstance(r, PlanRecord) and r.observation.streams]
    found = replan(raw, "--policy", "ad")
    assert found.exit_code == 0
    assert f"ad to recorded, {len(plans)} plans: prices " in found.stdout


def replan(*arguments: str | Path) -> Result:
    words = ["trace", "replan", *map(str, arguments)]
    return CliRunner().invoke(cli, words, catch_exceptions=False)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_plans_a_recording(tmp_path: Path, policy: str) -> None:
    file = tmp_path / "trace.jsonl"
    records = [*FLOW, plan_record(guessing(3), 11.0)]
    file.write_bytes(b"".join(to_line(n, record) for n, record in enumerate(records)))
    result = replan(file, "--policy", policy)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"{policy} to recorded, 2 plans: prices " in result.stdout


def test_bad_input_is_one_line_that_names_it(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text("this is no record\n")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "cut.jsonl").write_bytes(to_line(1, FLOW[0]) + to_line(2, FLOW[1])[:-20])
    none = tmp_path / "none"
    cases = [
        ((), "nothing to write: give --output", 2),
        (("--output", f"{none}/x.json"), f"{none}/x.json: there is no directory {none}", 2),
        (("--seconds", "0", "--raw", "x"), "--seconds", 2),
        (("replan", f"{none}"), f"trace file {none} not found", 2),
        (("replan", f"{tmp_path}"), f"trace file {tmp_path} cannot be read", 2),
        (("replan", f"{tmp_path}/text.jsonl"), "text.jsonl, line 1: not a line of JSON", 78),
        (("replan", f"{tmp_path}/cut.jsonl"), "cut.jsonl, line 2: not a line of JSON", 78),
        (("replan", f"{tmp_path}/empty.jsonl"), "empty.jsonl has no plan with streams", 2),
        (("replan", "x", "--policy", "best"), "'best' is not one of 'joint'", 2),
    ]
    for arguments, message, code in cases:
        done = commands.run("trace", *arguments)
        assert message in error_line(done)
        assert done.returncode == code


class FakeClient:
    """Answers one reply after the other; remembers what was asked for."""

    def __init__(self, *replies: TraceReply) -> None:
        self._replies = iter(replies)
        self.asked: list[int] = []

    async def trace(self, after: int) -> TraceReply:
        self.asked.append(after)
        return next(self._replies)


async def test_a_recording_ends_with_what_is_there_at_its_end() -> None:
    client = FakeClient(
        TraceReply(1, 3, 0, True, b"a\n"),
        TraceReply(2, 5, 2, True, b"b\nc\n"),
        TraceReply(3, 6, 1, False, b"d\n"),
    )
    recording = await poll(client, seconds=0.0)
    assert client.asked == [-1, 3, 5]
    assert recording == Recording((b"a\n", b"b\n", b"c\n", b"d\n"), 3)
