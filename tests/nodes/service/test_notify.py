"""What is said to a service manager, and to nobody where there is none."""

import os
import socket

import pytest

from nodes.service.systemd import Notifier


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
