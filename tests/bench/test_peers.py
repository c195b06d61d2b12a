"""Peers: what they need is said in a line, and what they start is stopped."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from bench.harness.processes import free_port
from bench.peers.systems import PeerError, Setup, all_peers, wait_until_open

PEERS = {peer.name: peer for peer in all_peers()}
PYTHON = PEERS["llama-cpp-python, plain"]


@pytest.mark.parametrize(
    ("peer", "changes", "says"),
    [
        (PYTHON, {"num_slots": 4}, "one request at a time"),
        (PEERS["tightwad"], {}, "needs a draft model"),
        (PEERS["llama.cpp server, draft"], {}, "needs a draft model"),
        pytest.param(
            *(PYTHON, {"target": Path("/nowhere/none.gguf")}, "exited with code"),
            marks=pytest.mark.skipif(
                importlib.util.find_spec("sse_starlette") is None,
                reason="its server is not installed",
            ),
        ),
    ],
)
def test_what_a_peer_cannot_do_is_an_error(tmp_path, peer, changes, says):
    wanted = {"target": tmp_path, "draft": None, "num_slots": 1, "num_threads": 1, **changes}
    with pytest.raises(PeerError, match=says), peer.started(Setup(**wanted)):
        pass


def test_a_process_that_ends_or_never_listens_is_an_error():
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    ended.wait()
    with pytest.raises(PeerError, match="exited with code 3"):
        wait_until_open("it", free_port(), ended, 5.0)
    waiting = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with pytest.raises(PeerError, match="did not listen"):
            wait_until_open("it", free_port(), waiting, 0.1)
    finally:
        assert waiting.stdin is not None
        waiting.stdin.close()
        waiting.wait()
