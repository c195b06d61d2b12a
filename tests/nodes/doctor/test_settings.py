from __future__ import annotations

from pathlib import Path

from nodes.config.settings import CoordinatorConfig
from nodes.doctor.checks import check_config, check_environment
from nodes.doctor.finding import Level


def test_a_configuration(tmp_path: Path) -> None:
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


def test_names_in_the_environment_that_mean_nothing() -> None:
    environ = {"AIRDRAFT_LISTEM": "x", "AIRDRAFT_QQQQ": "x", "AIRDRAFT_KEYS": "x", "HOME": "x"}
    found = check_environment(environ, frozenset({"listen"}))
    assert [f.mend for f in found] == ["did you mean AIRDRAFT_LISTEN?", "unset it"]
    assert all(f.level is Level.WARN for f in found)
