"""A process in front of a service manager: starting, serving, stuck, stopping, and without one."""

import os
import socket
import time

import pytest

from nodes.service.systemd import Manager
from tests.nodes.service.fake_manager import FakeManager


async def test_time_is_asked_for_while_a_model_loads(fake):
    async with Manager(fake.environ()).patient("loading the model"):
        await fake.until("EXTEND_TIMEOUT_USEC=30000000")
    assert "STATUS=loading the model" in fake.lines


async def test_ready_is_said_once_it_is_and_not_before(fake):
    is_ready = False
    async with Manager(fake.environ()).attending(lambda: is_ready):
        await fake.until("STATUS=joining the mesh")
        assert "READY=1" not in fake.lines
        is_ready = True
        await fake.until("STATUS=serving")
    fake.hear()
    assert fake.lines.count("READY=1") == 1


async def test_pings_come_while_all_is_well_and_only_then(fake, eventually):
    is_stuck = False
    asked = []

    def is_well(limit_s):
        asked.append(limit_s)
        return not is_stuck

    async with Manager(fake.environ(watchdog_s=0.2)).attending(lambda: True, is_well):
        await fake.until("WATCHDOG=1")
        await fake.until("WATCHDOG=1")
        is_stuck = True
        fake.hear()
        asked_so_far = len(asked)
        await eventually(lambda: len(asked) > asked_so_far + 3)
        assert "WATCHDOG=1" not in fake.hear()
        is_stuck = False
        await fake.until("WATCHDOG=1")
    assert set(asked) == {0.1}


async def test_a_blocked_event_loop_is_silent_for_as_long(fake):
    async with Manager(fake.environ(watchdog_s=0.2)).attending(lambda: True):
        await fake.until("WATCHDOG=1")
        fake.hear()
        time.sleep(0.5)  # noqa: ASYNC251 - this is the fault
        assert fake.hear() == []
        await fake.until("WATCHDOG=1")


@pytest.mark.parametrize(
    ("environ", "half_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "2500000"}, 1.25),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(os.getpid())}, 1.25),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
    ],
)
async def test_the_watchdog_is_the_one_that_is_meant_for_this_process(fake, environ, half_s):
    asked = []
    manager = Manager(fake.environ() | environ)
    async with manager.attending(lambda: True, lambda limit_s: not asked.append(limit_s)):
        await fake.until("STATUS=serving")
    assert asked == ([] if half_s is None else [half_s])


def test_a_process_that_stops_says_so_and_asks_for_time_beyond_its_own_limit(fake):
    Manager(fake.environ()).stopping(10.0)
    assert fake.hear() == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=15000000"]


def test_a_name_in_the_abstract_space_is_one():
    name = f"airdraft-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind("\0" + name)
        bound.setblocking(False)
        Manager({"NOTIFY_SOCKET": "@" + name}).stopping(1.0)
        assert bound.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("given", ["", "vsock:2:1234", "relative/path"])
async def test_where_no_manager_listens_there_is_nothing_to_do(given):
    manager = Manager({"NOTIFY_SOCKET": given})
    async with manager.attending(lambda: False), manager.patient("loading the model"):
        manager.stopping(1.0)


def test_a_manager_that_is_gone_or_does_not_read_stops_nobody(tmp_path, fake: FakeManager):
    Manager({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).stopping(1.0)
    manager = Manager(fake.environ())
    for _ in range(5_000):
        manager.stopping(1.0)
    assert set(fake.hear()) == {"STOPPING=1", "EXTEND_TIMEOUT_USEC=6000000"}
