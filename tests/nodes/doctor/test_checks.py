from __future__ import annotations

from pathlib import Path

import pytest

from nodes.doctor import checks
from nodes.doctor.checks import Asked, all_local
from nodes.doctor.finding import Level
from nodes.engine.protocol import EngineError
from nodes.keys.keyring import Keyring

BUILD = "0.3.36 CPU : AVX2 = 1 | FMA = 1 | F16C = 1 |"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    proc = tmp_path / "root" / "proc"
    proc.mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n")
    (proc / "cpuinfo").write_text("flags : avx2 fma f16c\n")
    return tmp_path / "root"


def asked(tmp_path: Path, root: Path, **environ: str) -> Asked:
    environ = {
        "AIRDRAFT_CACHE": str(tmp_path / "cache"),
        "AIRDRAFT_ENGINE__MODEL": "toy:1",
    } | environ
    roles = dict.fromkeys(("target", "draft", "coordinator"))
    return Asked(roles, environ, Keyring(tmp_path / "keys"), root)


def test_a_machine_on_which_all_is_well(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "build_name", lambda: BUILD)
    found = all_local(asked(tmp_path, root))
    assert {f.level for f in found} <= {Level.OK, Level.NOTE}
    text = "\n".join(f.what for f in found)
    for part in ("Python", "libllama", "coordinator", "toy:1", "swap", "keys", "port 7411 is free"):
        assert part in text


def test_settings_of_a_gateway_mean_something(tmp_path: Path, root: Path) -> None:
    environ = {"AIRDRAFT_LIMITS__MAX_CHOICES": "4", "AIRDRAFT_APIKEYS": "keys.toml"}
    found = all_local(asked(tmp_path, root, AIRDRAFT_LISTEM="x", **environ))
    nothing = [f.what for f in found if "has no effect" in f.what]
    assert nothing == ["AIRDRAFT_LISTEM in the environment has no effect"]


def test_every_subject_can_fail_beside_the_others(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> str:
        raise EngineError("no libgomp")

    monkeypatch.setattr(checks, "build_name", broken)
    (tmp_path / "cache").write_text("a file")
    wrong = asked(
        tmp_path, root, AIRDRAFT_ENGINE__MODEL="nothing.gguf", AIRDRAFT_HEARTBEAT_INTERVAL_S="x"
    )
    failed = [f.what for f in all_local(wrong) if f.level is Level.FAIL]
    for part in ("no libgomp", "cache directory", "nothing.gguf", "configuration of a coordinator"):
        assert any(part in what for what in failed), part
