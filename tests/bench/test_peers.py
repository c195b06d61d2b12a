"""Peers: what they need is said in a line, and what they start is stopped."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from bench.peers.llama_server import LlamaServer
from bench.peers.native_server import NativeServer
from bench.peers.peer import PeerError, Setup, free_port, wait_until_open
from bench.peers.run import OWN, all_peers


def test_whoever_is_not_installed_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    others = [peer for peer in all_peers() if "airdraft" not in peer.name]
    assert len(others) == 3
    for peer in others:
        assert "pip install" in peer.missing()
    assert OWN.missing() == ""


def test_names_differ():
    names = [peer.name for peer in all_peers()]
    assert len(set(names)) == len(names)


def test_a_quick_run_leaves_out_the_fast_profile():
    left_out = {p.name for p in all_peers()} - {p.name for p in all_peers(is_quick=True)}
    assert left_out == {"airdraft, as planned, fast"}


@pytest.mark.parametrize(
    "peer",
    [OWN, LlamaServer("draft"), NativeServer(Path("llama-server"), "draft")],
    ids=lambda peer: peer.name,
)
def test_whoever_needs_a_draft_says_so(peer, tmp_path):
    setup = Setup(target=tmp_path, draft=None, num_slots=1, num_threads=1)
    with pytest.raises(PeerError, match="needs a draft model"), peer.started(setup):
        pass


def test_a_model_that_is_not_there_ends_its_server(tmp_path):
    setup = Setup(target=tmp_path / "none.gguf", draft=None, num_slots=1, num_threads=1)
    with (
        pytest.raises(PeerError, match="exited with code"),
        LlamaServer("plain").started(setup),
    ):
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
