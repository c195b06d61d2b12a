"""What Landlock refuses by itself, without the filter of system calls."""

import pytest

from tests.engine.printed import printed

SCRIPT = """
import ctypes, os, signal, socket, sys
from airdraft.nodes.engine.sandbox import landlock
reading, writing = os.pipe()
opened = open("/proc/self/stat", "rb")
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
if not landlock.restrict():
    print("absent")
    sys.exit()
for act in (
    lambda: open("/proc/self/stat"),
    lambda: open("/tmp/airdraft-landlock-test", "w"),
    lambda: os.mkdir("/tmp/airdraft-landlock-test"),
    lambda: os.listdir("/"),
    lambda: os.execv("/bin/true", ["true"]),
):
    try:
        act()
    except PermissionError:
        pass
    else:
        print("not refused")
os.write(writing, b"x")
print(os.read(reading, 1), len(opened.read()) > 0)
"""
OLD = """
import ctypes, struct
from airdraft.nodes.engine.sandbox import landlock
told = []
def call(number, *arguments):
    told.append(arguments)
    return {version} if arguments[0] is None else -1
landlock._call = call
print(landlock.restrict(), *(bin(x).count("1") for x in struct.unpack("QQQ", told[-1][0])))
"""


def test_files_are_refused_except_open_ones() -> None:
    found = printed(SCRIPT)
    if found == "absent":
        pytest.skip("this kernel has no Landlock")
    assert found == "b'x' True"


@pytest.mark.parametrize(
    ("version", "rights"),
    [(1, "13 0 0"), (2, "14 0 0"), (3, "15 0 0"), (4, "15 2 0"), (6, "16 2 2"), (9, "16 2 2")],
)
def test_an_older_kernel_is_asked_for_what_it_knows(version: int, rights: str) -> None:
    assert printed(OLD.format(version=version)) == f"False {rights}"
