"""Namespaces of our own: made, used, and gone with what runs in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from bench.netns import NamespacesError, inside, ip, namespaces, remove

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and `ip`"
)


def there() -> set[str]:
    return {line.split()[0] for line in ip("netns", "list").splitlines()}


def test_namespaces_go_with_the_processes_in_them() -> None:
    script = "print('up', flush=True); import time; time.sleep(60)"
    with namespaces(2) as names:
        assert set(names) <= there()
        argv = inside(names[1], [sys.executable, "-c", script])
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            remove(names)
            assert process.wait(60) == -9
    assert not set(names) & there()


def test_they_go_when_their_user_fails() -> None:
    names: list[str] = []

    def fail() -> None:
        with namespaces(1) as made:
            names.extend(made)
            raise KeyError("a user's failure")

    with pytest.raises(KeyError):
        fail()
    assert names
    assert not set(names) & there()


def test_what_ip_refuses_is_said() -> None:
    with pytest.raises(NamespacesError, match="ip link show nobody"):
        ip("link", "show", "nobody")


def test_without_root_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NamespacesError, match="need root"), namespaces(1):
        pass
