"""`airdraft trace` on a real mesh of toy models, and one line for all a user can get wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from airdraft.nodes.api import Client
from airdraft.nodes.cli.main import cli
from airdraft.nodes.cli.trace import poll, summary
from airdraft.nodes.messages import TraceReply
from airdraft.nodes.telemetry.trace.records import from_line, to_line
from airdraft.nodes.worker.connection import LostCoordinatorError
from tests.cli.commands import LIMIT_S, Commands, error_line, stopped
from tests.nodes.telemetry.trace.examples import FLOW, OTHERS

CANARY = "zebra-4711"


def test_a_mesh_at_work_is_recorded_and_drawn(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRDRAFT_KEYS", str(tmp_path / "keys"))
    output, raw = tmp_path / "trace.json", tmp_path / "trace.jsonl"
    # Slow enough for the draft node to be ready in time.
    toys = (
        "--model",
        "toy:1@5ms",
        "--draft",
        "toy:0.8",
        "--beside",
        "--listen",
        "tcp://127.0.0.1:*",
    )
    with commands.listening("serve", *toys, "--no-http") as (mesh, endpoint):
        files = ("--output", str(output), "--raw", str(raw))
        tracing = commands.started("trace", "--connect", endpoint, "--seconds", "5", *files)
        texts = set()
        with tracing as process, Client(endpoint) as client:
            # Asked again and again until the recording has ended.
            while process.poll() is None:
                texts.add(client.complete(CANARY, max_tokens=400, gamma=4).text)
            _, summary = process.communicate(timeout=LIMIT_S)
            assert process.returncode == 0
        assert " records: " in summary
        # No text is another for being recorded.
        assert len(texts) == 1
        full = ("--seconds", "0.1", "--output", "/dev/full")
        refused = error_line(commands.run("trace", "--connect", endpoint, *full))
        assert refused.startswith("/dev/full cannot be written: No space left on device")
        stopped(mesh)
    records = [from_line(line) for line in raw.read_bytes().splitlines()]
    kinds = {type(record).__name__ for record in records}
    assert kinds == {"PlanRecord", "FollowRecord", "GuessRecord", "PassRecord"}
    trace = json.loads(output.read_text())
    threads = {e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert {"plan in force", "guesses", "pass"} <= threads
    for file in (output, raw):
        assert CANARY not in file.read_text()


def test_a_summary_counts_records() -> None:
    counts = "7 records: 1 of plan, 1 of guesses, 2 of pass; 2 lost"
    assert summary((*FLOW, *OTHERS), 2) == counts


class FakeClient:
    """Answers one reply after the other; remembers what was asked for."""

    def __init__(self, *replies: TraceReply) -> None:
        self._replies = iter(replies)
        self.asked: list[int] = []

    async def trace(self, after: int) -> TraceReply:
        self.asked.append(after)
        for reply in self._replies:
            return reply
        raise LostCoordinatorError("tcp://here", "closed the connection")


async def test_a_recording_ends_with_what_is_there_at_its_end() -> None:
    there = [
        TraceReply(1, 3, 0, True, b"a\n"),
        TraceReply(2, 5, 2, True, b"b\nc\n"),
        TraceReply(3, 6, 1, False, b"d\n"),
    ]
    client, replies = FakeClient(*there), list[TraceReply]()
    await poll(client, seconds=0.0, replies=replies)
    assert client.asked == [-1, 3, 5]
    assert replies == there


@pytest.mark.parametrize("is_full", [False, True])
def test_what_was_recorded_before_the_coordinator_was_lost_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_full: bool
) -> None:
    lines = b"".join(to_line(number, record) for number, record in enumerate(OTHERS))
    client = FakeClient(TraceReply(1, len(OTHERS), 0, True, lines))

    async def with_client(_connect: object, _keys: object, work: Any, **_options: Any) -> None:
        await work(client)

    monkeypatch.setattr("airdraft.nodes.cli.trace.with_client", with_client)
    raw, output = tmp_path / "trace.jsonl", tmp_path / "trace.json"
    if is_full:
        raw.symlink_to("/dev/full")
    result = CliRunner().invoke(cli, ["trace", "--raw", str(raw), "--output", str(output)])
    assert result.exit_code != 0
    assert "the coordinator at tcp://here closed the connection" in result.stderr
    assert is_full or raw.read_bytes() == lines
    assert json.loads(output.read_text())["traceEvents"]
