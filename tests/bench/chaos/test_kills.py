"""Short forms of `python -m bench chaos kills`, `points` and `rolling`, and their options."""

import json
from pathlib import Path
from random import Random

import httpx
import pytest

from airdraft.nodes.client.generation import GenerateOptions
from bench.chaos.kills.asking_again import Reader
from bench.chaos.kills.backdrop import Run, backdrop
from bench.chaos.kills.points import POINTS, run_points
from bench.chaos.kills.rolling import RESTARTED, run_rolling
from bench.chaos.kills.storm import run_storm
from bench.harness.airdraft import parse
from bench.harness.cases import Case, Expected, toy_cases
from bench.harness.fleet import FleetError, Setup
from bench.harness.history import Record, faults_of


@pytest.fixture(autouse=True)
def _histories_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.timeout(1800)
async def test_nothing_is_lost_under_kills_of_every_role() -> None:
    run = Run(seed=8)
    tally = await run_storm(run, toy_cases(Random(10), 64), num_kills=80, mean_gap_s=0.15)
    assert tally.faults == [], str(tally)
    assert tally.ends["finished"] > 20
    killed = sum(n for what, n in tally.disturbances.items() if what.endswith("killed"))
    assert killed >= 80


async def test_many_short_requests_end_in_time() -> None:
    run = Run(seed=9, num_streams=16, num_requests=300, deadline_s=30.0)
    tally = await run_storm(run, toy_cases(Random(11), 64, mean_tokens=4.0), mean_gap_s=0.5)
    assert tally.faults == [], str(tally)
    assert tally.num_requests == 300


async def test_what_is_wrong_with_the_mesh_is_said_as_it_is() -> None:
    nobody = Setup(num_targets=0, num_drafts=0)
    with pytest.raises(FleetError, match="gateway-0 is not ready"):
        async with backdrop(Run(seed=1, num_requests=0, setup=nobody), []):
            raise FleetError("gateway-0 is not ready")


def test_every_point_is_one_that_a_process_knows() -> None:
    for point in POINTS:
        parse(f"{point.place}:kill:{point.most}")


async def test_processes_that_fail_at_a_point_cost_no_token() -> None:
    wanted = (
        "target-0 send.CommitReply",
        "target-0 engine.pass",
        "draft-0 send.GuessNotice",
        "client send.Credit",
        "coordinator send.OutputNotice",
    )
    points = [p for p in POINTS if f"{p.who} {p.place}" in wanted]
    assert len(points) == 5
    actions = ("kill", "error", "stop", "block:0.3")
    tally = await run_points(Run(seed=5, num_streams=4), points, 4, actions)
    assert tally.faults == [], str(tally)
    assert tally.disturbances.total() == 20


CASE = Case("hi", GenerateOptions(), (Expected((1, 2, 3), b"one two three", "stop"),))


async def test_restarts_of_every_role_cost_no_answer() -> None:
    tally = await run_rolling(Run(seed=3, num_streams=4), 1, RESTARTED)
    assert tally.faults == [], str(tally)
    assert {f"{role} restarted" for role in RESTARTED} <= tally.disturbances.keys()
    assert tally.num_requests > 0
    assert "by restarted role: " in str(tally)


def event(text: str, reason: str | None = None) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": reason}
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


ERROR = b'data: {"error":{"message":"the gateway is stopping"}}\n\n'
DONE = b"data: [DONE]\n\n"


async def ask(
    *answers: int | bytes | Exception, deadline_s: float = 5.0
) -> tuple[Record, Reader, list[httpx.Request]]:
    """Ask two gateways that give these answers, one request after the other."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        found = answers[len(asked) - 1]
        if isinstance(found, Exception):
            raise found
        status, content = (200, found) if isinstance(found, bytes) else (found, b"{}")
        return httpx.Response(status, content=content)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        reader = Reader(http, 1, CASE, deadline_s, is_stream=True)
        return await reader.read(["http://a/v1", "http://b/v1"], 0), reader, asked


async def test_a_client_asks_the_other_gateway_by_its_key() -> None:
    record, reader, asked = await ask(
        event("one ") + event("two ") + ERROR,
        httpx.ConnectError("refused"),
        503,
        event("one two thr") + event("ee", "stop") + DONE,
    )
    assert (record.end, faults_of(record)) == ("finished", [])
    assert reader.came_again
    assert reader.outcomes == {"error event": 1, "broken connection": 1, "status 503": 1}
    hosts = [request.url.host for request in asked]
    assert hosts == ["a", "b", "a", "b"]
    assert len({request.headers["idempotency-key"] for request in asked}) == 1


@pytest.mark.parametrize(
    ("answers", "kinds"),
    [
        ([422], []),
        ([event("one ")], []),
        ([event("one ", "stop") + DONE], ["wrong end"]),
        ([event("two ", "stop") + DONE], ["wrong end"]),
        ([event("two ") + ERROR, event("one two three", "stop") + DONE], ["wrong end"]),
        ([503] * 1000, ["no end"]),
    ],
    ids=["refused", "cut without a word", "too short", "changed", "begun wrong", "never answered"],
)
async def test_what_must_not_be_is_a_fault(
    answers: list[int | bytes | Exception], kinds: list[str]
) -> None:
    record, _, _ = await ask(*answers, deadline_s=0.05 if answers[0] == 503 else 5.0)
    assert [fault.partition(":")[0] for fault in faults_of(record)] == kinds
    assert (record.end == "failed") == (not kinds)
