import os
import random
import signal
import time

import pytest

from bench.harness.failpoints import ENGINE_PASS, FailPointError, parse


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
    draws = iter((0.5, 0.2, 0.9))
    monkeypatch.setattr(random, "random", lambda: next(draws))
    point = parse("engine.pass:error:0.25")
    point.reached(ENGINE_PASS)
    with pytest.raises(FailPointError):
        point.reached(ENGINE_PASS)
    point.reached(ENGINE_PASS)


def test_signals_are_to_the_process_itself_and_a_block_sleeps_on_the_thread_that_comes_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[object] = []
    monkeypatch.setattr(os, "kill", lambda *arguments: seen.append(arguments))
    monkeypatch.setattr(time, "sleep", seen.append)
    for name in ("kill", "stop", "block:2.5:2"):
        point = parse(f"engine.pass:{name}")
        point.reached(ENGINE_PASS)
    assert seen == [(os.getpid(), signal.SIGKILL), (os.getpid(), signal.SIGSTOP)]
    point.reached(ENGINE_PASS)
    point.reached(ENGINE_PASS)
    assert seen[2:] == [2.5]


@pytest.mark.parametrize(
    "value",
    [
        *("", "engine.pass", "write.Ping:kill", "send.Nothing:kill", "engine.pass:burn"),
        *(f"engine.pass:{what}" for what in ("kill:x", "kill:0", "kill:1.5", "kill:1:1", "block")),
    ],
)
def test_what_cannot_be_understood_is_said_in_one_line(value: str) -> None:
    with pytest.raises(ValueError, match=r"AIRDRAFT_FAILPOINT.*: expected NAME:ACTION") as caught:
        parse(value)
    assert "\n" not in str(caught.value)
