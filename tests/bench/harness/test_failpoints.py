from __future__ import annotations

import os
import random
import signal
import time

import pytest

from bench.harness.airdraft import ENGINE_PASS, FailPointError, parse


def test_it_fails_at_the_place_that_is_named_and_once() -> None:
    point = parse("send.Ping:error")
    for place in (ENGINE_PASS, "receive.Ping", "send.Hello"):
        point.reached(place)
    with pytest.raises(FailPointError):
        point.reached("send.Ping")
    point.reached("send.Ping")
    # A count says at which time.
    point = parse("receive.Ping:error:2")
    point.reached("receive.Ping")
    with pytest.raises(FailPointError):
        point.reached("receive.Ping")


def test_a_probability_is_drawn_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter((0.5, 0.2, 0.9, 0.1))
    monkeypatch.setattr(random, "random", lambda: next(draws))
    point = parse("engine.pass:error:0.25")
    raised = []
    for index in range(4):
        try:
            point.reached(ENGINE_PASS)
        except FailPointError:
            raised.append(index)
    assert raised == [1, 3]


@pytest.mark.parametrize(("action", "number"), [("kill", signal.SIGKILL), ("stop", signal.SIGSTOP)])
def test_signals_are_to_the_process_itself(
    action: str, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, signal_number: sent.append((pid, signal_number)))
    point = parse(f"engine.pass:{action}")
    point.reached(ENGINE_PASS)
    assert sent == [(os.getpid(), number)]


def test_a_block_sleeps_on_the_thread_that_comes_by(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    point = parse("engine.pass:block:2.5:2")
    point.reached(ENGINE_PASS)
    assert slept == []
    point.reached(ENGINE_PASS)
    point.reached(ENGINE_PASS)
    assert slept == [2.5]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "engine.pass",
        "write.Ping:kill",
        "send.Nothing:kill",
        "engine.pass:burn",
        "engine.pass:kill:x",
        "engine.pass:kill:0",
        "engine.pass:kill:1.5",
        "engine.pass:kill:1:1",
        "engine.pass:block",
    ],
)
def test_what_cannot_be_understood_is_said_in_one_line(value: str) -> None:
    with pytest.raises(ValueError, match=r"AIRDRAFT_FAILPOINT.*: expected NAME:ACTION") as caught:
        parse(value)
    assert "\n" not in str(caught.value)
