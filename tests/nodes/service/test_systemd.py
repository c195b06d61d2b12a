"""What systemd is told, what it passes on, and lines of a log as journald reads them."""

import logging
import os
import socket
import time

import pytest

from airdraft.nodes.config.settings import ConfigError
from airdraft.nodes.service.systemd import (
    Manager,
    endpoint_of,
    is_journal,
    take_inherited,
    with_priority,
)
from tests.nodes.service.fake_manager import FakeManager


@pytest.fixture
def fake(tmp_path):
    with FakeManager(tmp_path / "notify") as manager:
        yield manager


# -- a process in front of its manager ------------------------------------------------------------


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


# -- sockets that are passed on --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "fd"), [("mesh", 3), ("airdraft-coordinator.socket", 3), ("http:mesh", 4)]
)
def test_the_socket_is_the_one_that_is_meant_or_the_only_one(names, fd, monkeypatch):
    kept = []
    monkeypatch.setattr(os, "set_inheritable", lambda *told: kept.append(told))
    count = str(1 + names.count(":"))
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count, "LISTEN_FDNAMES": names}
    assert take_inherited(environ, "mesh") == fd
    # No process that this one starts has it.
    assert kept == [(fd, False)]


def test_of_several_sockets_none_is_left_to_wait_for_ever():
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "mesh:mesh"}
    with pytest.raises(ConfigError, match="has 2 ListenStream=, but only one is served"):
        take_inherited(environ, "mesh")


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
    assert take_inherited({"LISTEN_PID": str(os.getpid())} | environ, "mesh") is None


def test_a_listening_socket_has_an_endpoint_and_any_other_is_an_error(tmp_path):
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "mesh.sock"))
        bound.listen()
        assert endpoint_of(bound.fileno()) == f"ipc://{tmp_path}/mesh.sock"
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.create_server((host, 0), family=family) as bound:
            shown = f"[{host}]" if ":" in host else host
            assert endpoint_of(bound.fileno()) == f"tcp://{shown}:{bound.getsockname()[1]}"
    with socket.socket() as silent, pytest.raises(OSError, match="not a listening"):
        endpoint_of(silent.fileno())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        with pytest.raises(OSError):  # noqa: PT011 - the kernel's words differ
            endpoint_of(datagrams.fileno())


# -- lines of the log ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (10, 7)],
)
def test_every_line_begins_with_its_priority(level, priority):
    assert with_priority("a b\nTraceback", level) == f"<{priority}>a b\n<{priority}>Traceback"


def test_a_stream_is_the_journal_s_if_it_is_the_one_that_was_named(tmp_path):
    with (tmp_path / "log").open("w") as stream, (tmp_path / "other").open("w") as other:
        found = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert is_journal(environ, stream)
        assert not is_journal(environ, other)
        assert not is_journal({}, stream)
        assert not is_journal({"JOURNAL_STREAM": "nonsense"}, stream)
