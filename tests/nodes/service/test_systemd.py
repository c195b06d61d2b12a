"""What systemd is told, what it passes on, and lines of a log as journald reads them."""

import asyncio
import json
import logging
import os
import socket
import sys
import time

import pytest

from nodes.config.settings import ConfigError
from nodes.service.systemd import (
    JournalFormatter,
    Manager,
    Notifier,
    endpoint_of,
    inherited,
    is_journal,
)
from tests.nodes.service.fake_manager import FakeManager


@pytest.fixture
def fake(tmp_path):
    with FakeManager(tmp_path / "notify") as manager:
        yield manager


# -- what a process says ---------------------------------------------------------------------------


def test_each_state_is_one_line(fake):
    notifier = Notifier(fake.environ())
    assert notifier.is_on
    notifier.ready()
    notifier.status("two\nlines")
    notifier.alive()
    notifier.extend(1.5)
    notifier.stopping()
    assert fake.hear() == [
        "READY=1",
        "STATUS=two lines",
        "WATCHDOG=1",
        "EXTEND_TIMEOUT_USEC=1500000",
        "STOPPING=1",
    ]


def test_a_name_in_the_abstract_space_is_one(tmp_path):
    name = f"airdraft-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind("\0" + name)
        bound.setblocking(False)
        Notifier({"NOTIFY_SOCKET": "@" + name}).ready()
        assert bound.recv(100) == b"READY=1"


@pytest.mark.parametrize("given", ["", "vsock:2:1234", "relative/path"])
def test_where_no_manager_listens_nothing_is_said(given):
    notifier = Notifier({"NOTIFY_SOCKET": given})
    assert not notifier.is_on
    notifier.ready()


def test_a_manager_that_is_gone_or_does_not_read_stops_nobody(tmp_path, fake):
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready()
    notifier = Notifier(fake.environ())
    for _ in range(10_000):
        notifier.alive()
    assert set(fake.hear()) == {"WATCHDOG=1"}


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "2500000"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(os.getpid())}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({"WATCHDOG_USEC": "-1"}, 0.0),
    ],
)
def test_the_watchdog_is_the_one_that_is_meant_for_this_process(environ, seconds):
    assert Notifier(environ).watchdog_s == seconds


# -- a role in front of its manager: starting, serving, stuck --------------------------------------


async def test_time_is_asked_for_while_a_model_loads(fake):
    async with Manager(fake.environ()).patient("loading the model"):
        await fake.until("EXTEND_TIMEOUT_USEC=30000000")
    assert "STATUS=loading the model" in fake.lines


async def test_ready_is_said_once_it_is_and_not_before(fake):
    is_ready = False
    attending = asyncio.create_task(Manager(fake.environ()).attend(lambda: is_ready))
    await fake.until("STATUS=joining the mesh")
    assert "READY=1" not in fake.lines
    is_ready = True
    await fake.until("READY=1")
    await attending
    assert fake.lines.count("READY=1") == 1


async def test_pings_come_while_all_is_well_and_only_then(fake, eventually):
    is_stuck = False
    asked = []

    def is_well(limit_s):
        asked.append(limit_s)
        return not is_stuck

    manager = Manager(fake.environ(watchdog_s=0.2))
    attending = asyncio.create_task(manager.attend(lambda: True, is_well))
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
    attending.cancel()


async def test_a_blocked_event_loop_is_silent_for_as_long(fake):
    attending = asyncio.create_task(Manager(fake.environ(watchdog_s=0.2)).attend(lambda: True))
    await fake.until("WATCHDOG=1")
    fake.hear()
    time.sleep(0.5)  # noqa: ASYNC251 - this is the fault
    assert fake.hear() == []
    await fake.until("WATCHDOG=1")
    attending.cancel()


async def test_without_a_manager_there_is_nothing_to_do():
    manager = Manager({})
    async with asyncio.timeout(60):
        await manager.attend(lambda: False)
        async with manager.patient("loading the model"):
            pass


# -- sockets that are passed on --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "fd"), [("mesh", 3), ("airdraft-coordinator.socket", 3), ("http:mesh", 4)]
)
def test_the_socket_is_the_one_that_is_meant_or_the_only_one(names, fd, monkeypatch):
    kept = []
    monkeypatch.setattr(os, "set_inheritable", lambda *told: kept.append(told))
    count = str(1 + names.count(":"))
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count, "LISTEN_FDNAMES": names}
    assert inherited(environ, "mesh") == fd
    # No process that this one starts has it.
    assert kept == [(fd, False)]


def test_of_several_sockets_none_is_left_to_wait_for_ever():
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "mesh:mesh"}
    with pytest.raises(ConfigError, match="has 2 ListenStream=, but only one is served"):
        inherited(environ, "mesh")


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "0"},
        {"LISTEN_FDS": "one"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:other"},
    ],
)
def test_what_is_not_meant_is_left_alone(environ):
    assert inherited({"LISTEN_PID": str(os.getpid())} | environ, "mesh") is None


def test_endpoints_of_all_kinds_of_sockets(tmp_path):
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "mesh.sock"))
        bound.listen()
        assert endpoint_of(bound.fileno()) == f"ipc://{tmp_path}/mesh.sock"
    with socket.create_server(("127.0.0.1", 0)) as bound:
        assert endpoint_of(bound.fileno()) == f"tcp://127.0.0.1:{bound.getsockname()[1]}"
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as bound:
        assert endpoint_of(bound.fileno()) == f"tcp://[::1]:{bound.getsockname()[1]}"


def test_what_does_not_listen_is_an_error():
    with socket.socket() as silent, pytest.raises(OSError, match="not a listening"):
        endpoint_of(silent.fileno())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        with pytest.raises(OSError):  # noqa: PT011 - the kernel's words differ
            endpoint_of(datagrams.fileno())


# -- lines of the log ------------------------------------------------------------------------------


def record(level=logging.WARNING, message="a %s", args=("b",), exc_info=None):
    return logging.LogRecord("nodes.x", level, "x.py", 1, message, args, exc_info)


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (10, 7)],
)
def test_a_line_begins_with_its_priority(level, priority):
    line = JournalFormatter().format(record(level))
    assert line.startswith(f"<{priority}>{{")


def test_a_record_is_one_line_of_json_whatever_it_says_with_its_traceback():
    line = JournalFormatter().format(record(message='two\nlines "quoted" é', args=()))
    said = json.loads(line[3:])
    assert said == {
        "level": "warning",
        "logger": "nodes.x",
        "message": 'two\nlines "quoted" é',
    }
    try:
        raise ValueError("why")
    except ValueError:
        failed = JournalFormatter().format(record(exc_info=sys.exc_info()))
    assert "ValueError: why" in json.loads(failed[3:])["traceback"]
    assert "\n" not in line + failed


def test_a_stream_is_the_journal_s_if_it_is_the_one_that_was_named(tmp_path):
    with (tmp_path / "log").open("w") as stream, (tmp_path / "other").open("w") as other:
        found = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert is_journal(environ, stream)
        assert not is_journal(environ, other)
        assert not is_journal({}, stream)
        assert not is_journal({"JOURNAL_STREAM": "nonsense"}, stream)
