"""Cases, streams that ask them, and the checker that finds what must not be, and nothing else."""

import json
from pathlib import Path
from random import Random

import httpx
import pytest

from airdraft.nodes.client.client import RequestFailedError
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.engine.toy import ToyConfig, ToyTokenizer
from bench.harness.cases import Case, Expected, sampling_of, toy_cases
from bench.harness.history import ClientEvent, Record, Tally, faults_of
from bench.harness.work import answered
from tests.nodes.reference import reference

CASE = Case(
    (1, 2), GenerateOptions(max_tokens=4, seed=1), (Expected((5, 6, 7, 8), b" 5 6 7 8", "length"),)
)
STOPPED = Case((1,), GenerateOptions(seed=1), (Expected((5, 6), b" 5", "stop"),))
STARTED = ClientEvent(0.1, "started")


def tokens(position: int, *ids: int, text: bytes | None = None, at_s: float = 0.2) -> ClientEvent:
    text = b"".join(b" %d" % i for i in ids) if text is None else text
    return ClientEvent(at_s, "tokens", 0, position, ids, text)


def finished(count: int, reason: str = "length") -> ClientEvent:
    return ClientEvent(0.9, "finished", num_tokens=count, reason=reason)


def record(
    *events: ClientEvent, end: str = "finished", case: Case = CASE, took_s: float = 1.0
) -> Record:
    return Record(1, case, 0.0, 10.0, list(events), end, ended_at_s=took_s)


def kinds(checked: Record) -> list[str]:
    return [fault.partition(":")[0] for fault in faults_of(checked)]


@pytest.mark.parametrize(
    "good",
    [
        record(STARTED, tokens(0, 5), tokens(1, 6, 7), tokens(3, 8), finished(4)),
        record(STARTED, tokens(0, 5), tokens(1, 6, text=b""), finished(2, "stop"), case=STOPPED),
        # An error is an end, and what came before it is right.
        record(STARTED, tokens(0, 5, 6), end="failed"),
        record(end="failed"),
    ],
)
def test_what_is_right_is_not_reported(good: Record) -> None:
    assert kinds(good) == []


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        # A lost token, and what follows in its right place.
        (record(STARTED, tokens(0, 5), tokens(2, 7, 8), finished(4)), "wrong tokens"),
        # The same, unnoticed by who counts positions.
        (record(STARTED, tokens(0, 5), tokens(1, 7, 8), finished(3)), "wrong tokens"),
        (record(STARTED, tokens(0, 5, 6), tokens(1, 6, 7, 8), finished(4)), "wrong tokens"),
        (record(STARTED, tokens(0, 5), tokens(0, 5), tokens(1, 6), end="failed"), "wrong tokens"),
        (record(STARTED, tokens(0, 5, 9), end="failed"), "wrong tokens"),
        (record(STARTED, tokens(0, 5, 6, 7, 8, 9), finished(5)), "wrong tokens"),
        (record(STARTED, tokens(0, 5, 6, text=b" 5 7"), end="failed"), "wrong text"),
        (record(STARTED, tokens(0, 5, 6), finished(2)), "wrong end"),
        (record(STARTED, finished(0, "stop")), "wrong end"),
        (record(STARTED, tokens(0, 5, 6, 7, 8), finished(4, "stop")), "wrong end"),
        (record(STARTED, tokens(0, 5, 6, text=b""), finished(2), case=STOPPED), "wrong end"),
        (record(STARTED, tokens(0, 5, 6, 7, 8), finished(5)), "wrong end"),
        (record(STARTED, tokens(0, 5, 6, 7, 8), finished(4), tokens(4, 9)), "wrong order"),
        (record(STARTED, tokens(0, 5, 6, 7, 8), finished(4), finished(4)), "wrong order"),
        (record(STARTED, STARTED, end="failed"), "wrong order"),
        (record(tokens(0, 5), STARTED, end="failed"), "wrong order"),
        (record(STARTED, tokens(0, 5), end="late", took_s=10.0), "no end"),
        (record(STARTED, tokens(0, 5), end=""), "no end"),
        (record(STARTED, tokens(0, 5)), "no end"),
        (record(STARTED, tokens(0, 5), end="failed", took_s=11.5), "late"),
    ],
)
def test_what_is_wrong_is_found(bad: Record, found: str) -> None:
    assert kinds(bad) == [found]


def test_each_choice_is_checked_by_itself() -> None:
    two = Case((1,), GenerateOptions(num_choices=2, seed=1), (CASE.expected[0],) * 2)
    good = [STARTED, tokens(0, 5, 6, 7, 8), finished(4)]
    assert kinds(record(*good, case=two)) == ["no end"]
    other = [
        ClientEvent(1.0, "tokens", 1, 0, (5, 6, 7, 8), b" 5 6 7 8"),
        ClientEvent(1, "finished", 1),
    ]
    assert kinds(record(*good, *other, case=two)) == ["wrong end"]


def test_a_tally_keeps_the_first_history_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tally = Tally(seed=7)
    tally.add(record(STARTED, tokens(0, 5, 6, 7, 8), finished(4)))
    assert tally.history is None
    failed = record(STARTED, end="failed")
    failed.code, failed.reason = "unavailable", "no target"
    tally.add(failed)
    tally.wrong("accident", "target-0 ended by itself")
    tally.add(record(STARTED, tokens(0, 5, 6), finished(2)))
    tally.add(record(end="late"))
    assert tally.num_requests == 4
    first = "wrong end: length after 2 of 4 tokens (it says 2) and 4 of 8 bytes, choice 0"
    kinds = [fault.partition(":")[0] for fault in tally.faults]
    assert kinds == ["accident", "wrong end", "no end"]
    assert tally.faults[1] == f"{first} (request 1)"
    assert tally.progress() == "4 requests: WRONG: accident: target-0 ended by itself"
    assert tally.history is not None
    history = json.loads(tally.history.read_text())
    assert (history["seed"], history["faults"]) == (7, [first])
    assert [event["what"] for event in history["events"]] == ["started", "tokens", "finished"]
    assert "failed 1 x unavailable: no target" in str(tally)


def test_the_undisturbed_text_is_that_of_the_tests() -> None:
    """Two loops that were written apart agree."""
    kinds = set()
    for case in toy_cases(Random(3), 80, mean_tokens=30.0):
        prompt = case.prompt
        ids = ToyTokenizer(96).encode(prompt) if isinstance(prompt, str) else prompt
        for choice, expected in enumerate(case.expected):
            alone = reference(
                ToyConfig(),
                ids,
                sampling_of(case.options, choice),
                max_tokens=case.options.max_tokens,
                stops=case.options.stops,
            )
            assert expected.token_ids == alone.token_ids
            assert (expected.text, expected.finish_reason) == (alone.text, alone.finish_reason)
        kinds |= {type(prompt), case.options.num_choices, case.expected[0].finish_reason}
    assert kinds >= {str, tuple, 1, 2, "stop", "length"}
    # One seed gives the same cases.
    assert toy_cases(Random(4), 5) == toy_cases(Random(4), 5)
    assert toy_cases(Random(4), 5) != toy_cases(Random(5), 5)


# -- answers that depend on who has lost a coordinator ---------------------------------------------


@pytest.mark.parametrize("has_lost_coordinator", [False, True])
@pytest.mark.parametrize(
    "unavailable",
    [
        RequestFailedError("unavailable", "no target"),
        httpx.HTTPStatusError(
            "", request=httpx.Request("GET", "http://localhost"), response=httpx.Response(503)
        ),
        TimeoutError(),
    ],
)
async def test_what_may_pass_is_asked_again_only_where_a_coordinator_was_lost(
    has_lost_coordinator: bool, unavailable: Exception
) -> None:
    answers: list[str | Exception] = [unavailable, "refused"]

    async def ask() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    if has_lost_coordinator:
        assert await answered(ask, lambda: True) == "refused"
    else:
        with pytest.raises(type(unavailable)):
            await answered(ask, lambda: False)
