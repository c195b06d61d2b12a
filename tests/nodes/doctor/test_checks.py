from dataclasses import replace
from pathlib import Path

import pytest

from airdraft.nodes.config.settings import CoordinatorConfig
from airdraft.nodes.doctor import checks
from airdraft.nodes.doctor.checks import Asked, all_local, check_config, check_environment, roles_in
from airdraft.nodes.doctor.finding import Level
from airdraft.nodes.engine.protocol import EngineError
from airdraft.nodes.keys.keyring import Keyring

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
    roles = dict.fromkeys(checks.ROLES)
    return Asked(roles, environ, Keyring(tmp_path / "keys"), root)


def test_a_machine_on_which_all_is_well(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "build_name", lambda: BUILD)
    found = all_local(asked(tmp_path, root))
    assert {f.level for f in found} <= {Level.OK, Level.NOTE}
    text = "\n".join(f.what for f in found)
    for part in (
        "llama-cpp-python 0.3.36",
        "coordinator",
        "toy:1",
        "swap",
        "keys",
        "127.0.0.1:8080",
    ):
        assert part in text


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
    failed = {f.what: f.mend for f in all_local(wrong) if f.level is Level.FAIL}
    for part in ("no libgomp", "cache directory", "nothing.gguf", "configuration of a coordinator"):
        assert any(part in what for what in failed), part
    assert "apt-get install g++" in failed["no libgomp"]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("AIRDRAFT_LISTEN", "0.0.0.0:7411", "endpoint '0.0.0.0:7411'"),
        ("AIRDRAFT_LISTEN", "tcp://0.0.0.0:7411", "links to other machines need keys"),
        ("AIRDRAFT_LISTEN", "0.0.0.0:8080", "has no API keys, but listen = '0.0.0.0:8080'"),
        ("AIRDRAFT_CONNECT", "10.0.0.1", "endpoint '10.0.0.1'"),
        ("AIRDRAFT_CONNECT", "tcp://10.0.0.1:7411", "links to other machines need keys"),
    ],
)
def test_an_endpoint_with_which_a_role_does_not_start_is_named(
    name: str, value: str, says: str, tmp_path: Path, root: Path
) -> None:
    found = all_local(asked(tmp_path, root, **{name: value}))
    named = [f for f in found if says in f.what]
    assert named
    assert all(f.level is Level.FAIL and f.mend for f in named)


def test_an_address_is_checked_for_the_role_that_has_its_form() -> None:
    assert {"coordinator", "gateway"} <= set(roles_in({}))
    for listen, one, other in (
        ("tcp://127.0.0.1:7411", "coordinator", "gateway"),
        ("127.0.0.1:8081", "gateway", "coordinator"),
    ):
        roles = roles_in({"AIRDRAFT_LISTEN": listen})
        assert (one in roles, other in roles) == (True, False)


def test_a_key_that_others_can_read_is_a_finding_beside_the_others(
    tmp_path: Path, root: Path
) -> None:
    keys = tmp_path / "keys"
    Keyring(keys).make_coordinator_pair()
    (keys / "coordinator.key").chmod(0o644)
    ring = Keyring(keys, private=f"ipc://{tmp_path}/mesh.sock")
    found = all_local(replace(asked(tmp_path, root), ring=ring))
    (named,) = [f for f in found if "other users can read" in f.what]
    assert named.level is Level.FAIL


def test_a_configuration_is_loaded_or_its_fault_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('listen = "tcp://127.0.0.1:1"\n')
    finding, config = check_config("coordinator", path, {})
    assert finding.level is Level.OK
    assert isinstance(config, CoordinatorConfig)
    assert config.listen == "tcp://127.0.0.1:1"
    path.write_text('listem = "x"\n')
    finding, config = check_config("coordinator", path, {})
    assert (finding.level, config) == (Level.FAIL, None)
    assert "did you mean listen?" in finding.what
    assert check_config("target", None, {"AIRDRAFT_ENGINE__CELLS": "x"})[0].level is Level.FAIL


def test_variables_of_the_environment_without_effect_are_named() -> None:
    environ = {"AIRDRAFT_LISTEM": "x", "AIRDRAFT_QQQQ": "x", "AIRDRAFT_KEYS": "x", "HOME": "x"}
    found = check_environment(environ)
    assert [f.mend for f in found] == ["did you mean AIRDRAFT_LISTEN?", "unset it"]
    assert all(f.level is Level.WARN for f in found)
    # Settings of a gateway mean something, of whichever roles the machine has.
    assert not check_environment({"AIRDRAFT_LIMITS__MAX_CHOICES": "4", "AIRDRAFT_APIKEYS": "a"})
