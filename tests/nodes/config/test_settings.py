"""TOML < environment < command line, and every mistake is told with its key."""

from dataclasses import replace

import pytest

from airdraft.nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET
from airdraft.nodes.config.settings import (
    ClientConfig,
    ConfigError,
    CoordinatorConfig,
    DraftConfig,
    TargetConfig,
)
from airdraft.nodes.config.sources import load


@pytest.fixture
def toml(tmp_path):
    def write(text):
        path = tmp_path / "airdraft.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refused(*args):
    with pytest.raises(ConfigError) as caught:
        load(*args)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_what_no_source_says_is_the_default_of_the_role(toml):
    assert load(CoordinatorConfig, None, {"cluster": None}, {}) == CoordinatorConfig()
    assert load(CoordinatorConfig, None, {"cluster": ""}, {}).cluster == ""
    not_given = {"name": None, "engine.cells": None}
    target = load(TargetConfig, toml('name = "x"\n'), not_given, {})
    assert target == TargetConfig(name="x")
    draft = load(DraftConfig, toml("[engine]\nthreads = 2\n"), {}, {}).engine
    assert draft == replace(DraftConfig().engine, threads=2)
    assert (target.engine.model, draft.model) == (DEFAULT_TARGET, DEFAULT_DRAFT)
    assert (target.engine.profile, draft.profile) == ("exact", "fast")


def test_each_source_overrides_the_one_before(toml):
    path = toml('name = "toml"\n[engine]\ncells = 1024\nthreads = 2\nmax_streams = 3\n')
    environ = {"AIRDRAFT_ENGINE__THREADS": "4", "AIRDRAFT_ENGINE__MAX_STREAMS": "5"}
    config = load(TargetConfig, path, {"engine.max_streams": 6}, environ)
    assert config.name == "toml"
    assert (config.engine.cells, config.engine.threads, config.engine.max_streams) == (1024, 4, 6)


def test_a_whole_number_will_do_for_a_float(toml):
    environ = {"AIRDRAFT_HEARTBEAT_INTERVAL_S": "2"}
    config = load(CoordinatorConfig, toml("heartbeat_timeout_s = 7\n"), {}, environ)
    assert type(config.heartbeat_timeout_s) is float
    assert (config.heartbeat_timeout_s, config.heartbeat_interval_s) == (7.0, 2.0)


def test_a_variable_with_one_underscore_too_few_or_too_many_is_an_error():
    for name in ("AIRDRAFT_ENGINE_MAX_STREAMS", "AIRDRAFT_ENGINE__MAX__STREAMS"):
        with pytest.raises(ConfigError, match="did you mean AIRDRAFT_ENGINE__MAX_STREAMS"):
            load(TargetConfig, None, {}, {name: "3"})
    others = {"AIRDRAFT_PLAN__POLICY": "auto", "ENGINE_MAX_STREAMS": "3"}
    assert load(TargetConfig, None, {}, others) == load(TargetConfig, None, {}, {})


def test_the_process_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("AIRDRAFT_CLUSTER", "mine")
    assert load(CoordinatorConfig, None, {}).cluster == "mine"
    assert load(CoordinatorConfig, None, {}, {}).cluster == "airdraft"


@pytest.mark.parametrize(
    ("config_class", "text", "says"),
    [
        (TargetConfig, "nmae = 1", "unknown key nmae, did you mean name?"),
        (TargetConfig, "[engine]\nmodle = 'x'", "key engine.modle, did you mean engine.model?"),
        (TargetConfig, "engine.max_stream = 2", "did you mean engine.max_streams?"),
        (CoordinatorConfig, "zzzz = 1", "unknown key zzzz; known: listen, cluster, heartbeat_int"),
        # A setting of another role is none of this one.
        (CoordinatorConfig, "join_timeout_s = 1", "unknown key join_timeout_s"),
        (TargetConfig, "name = 3", ": name = 3 is not of type str"),
        (TargetConfig, "[engine]\ncells = '1024'", ": engine.cells = '1024' is not of type int"),
        (TargetConfig, "[engine]\ncells = 1024.0", ": engine.cells = 1024.0 is not of type int"),
        (TargetConfig, "[engine]\ncells = true", ": engine.cells = True is not of type int"),
        (TargetConfig, "join_timeout_s = true", ": join_timeout_s = True is not of type float"),
        (TargetConfig, f"join_timeout_s = {10**400}", ": join_timeout_s has too many digits"),
        (TargetConfig, "[name]\nfirst = 'x'", "is not of type str"),
        (TargetConfig, "name = ['x']", ": name = ['x'] is not of type str"),
        (TargetConfig, "engine = 3", "engine"),
        (DraftConfig, "[link]\nrate_kbps = -1", "link.rate_kbps = -1.0: 0 to"),
        (ClientConfig, "[link]\nrtt_ms = -1", "link.rtt_ms = -1.0: 0 to"),
        (CoordinatorConfig, "[plan]\npolicy = 'max-batch'", "auto, open, plain, grouped, paper is"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_key(toml, config_class, text, says):
    assert says in refused(config_class, toml(text), {}, {})


@pytest.mark.parametrize(
    ("config_class", "key", "value", "accepted"),
    [
        (TargetConfig, "engine.profile", "quick", "one of exact, fast is accepted"),
        (TargetConfig, "engine.cells", -1, "0 to 4194304 is accepted"),
        (TargetConfig, "engine.max_streams", 0, "1 to 255 is accepted"),
        (TargetConfig, "engine.max_streams", 256, "1 to 255 is accepted"),
        (TargetConfig, "engine.threads", -1, "0 to 512 is accepted"),
        (DraftConfig, "engine.gpu_layers", -2, "-1 to 65536 is accepted"),
        (TargetConfig, "engine.prefix_cache_mb", -2, "-1 to 1048576 is accepted"),
        (TargetConfig, "join_timeout_s", 0.0, "0.1 to 3600 is accepted"),
        (DraftConfig, "join_timeout_s", float("nan"), "0.1 to 3600 is accepted"),
        (DraftConfig, "link.air", "x" * 65, "0 to 64 characters are accepted"),
        (DraftConfig, "name", "x" * 65, "1 to 64 characters are accepted"),
        (TargetConfig, "name", "", "1 to 64 characters are accepted"),
        (CoordinatorConfig, "cluster", "x" * 65, "0 to 64 characters are accepted"),
        (CoordinatorConfig, "heartbeat_interval_s", 0.0, "0.05 to 60 is accepted"),
        (CoordinatorConfig, "heartbeat_timeout_s", 601.0, "0.2 to 600 is accepted"),
        (CoordinatorConfig, "limits.max_requests", 0, "1 to 1048576 is accepted"),
        (CoordinatorConfig, "limits.max_gateway_waiting", 1 << 21, "1 to 1048576 is accepted"),
        *((TargetConfig, "AIRDRAFT_ENGINE__CELLS", text, "of type int") for text in ("x", "1e3")),
        (TargetConfig, "AIRDRAFT_JOIN_TIMEOUT_S", "", "not of type float"),
        (CoordinatorConfig, "AIRDRAFT_MARK_AIR", "yes", "one of true, 1, false, 0 is accepted"),
        # The coordinator would refuse the node.
        (DraftConfig, "link.rate_kbps", 0.5, "0, or at least 1, is accepted"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_accepted(config_class, key, value, accepted):
    """A key in capitals is a variable of the environment, any other one an option."""
    given = ({}, {key: value}) if key.isupper() else ({key: value}, {})
    message = refused(config_class, None, *given)
    assert message.startswith(f"{key} = {value!r}")
    assert accepted in message


def test_a_timeout_is_at_least_three_intervals():
    short = {"heartbeat_interval_s": 0.5, "heartbeat_timeout_s": 1.4}
    assert refused(CoordinatorConfig, None, short, {}).startswith(
        "heartbeat_timeout_s = 1.4: at least three times heartbeat_interval_s = 0.5 is accepted"
    )
    load(CoordinatorConfig, None, short | {"heartbeat_timeout_s": 1.5}, {})


def test_the_ends_of_a_range_are_accepted():
    ends = {"cells": 0, "max_streams": 255, "gpu_layers": -1, "prefix_cache_mb": -1}
    config = load(TargetConfig, None, {f"engine.{key}": ends[key] for key in ends}, {})
    assert {key: getattr(config.engine, key) for key in ends} == ends


def test_a_file_that_is_missing_or_cannot_be_read_is_told(tmp_path):
    path = tmp_path / "airdraft.toml"
    assert refused(TargetConfig, path, {}, {}) == f"config file {path} not found"
    assert "cannot be read: " in refused(TargetConfig, tmp_path, {}, {})
    for content in (b"name = \n", b"name = '\xff'\n", b"a = 1\na = 2\n"):
        path.write_bytes(content)
        said = refused(TargetConfig, path, {}, {})
        assert said.startswith(f"config file {path} is not valid TOML")


@pytest.mark.parametrize("config_class", [DraftConfig, ClientConfig])
def test_a_link_is_declared_in_a_section_of_its_own(toml, config_class):
    path = toml('[link]\nair = "cell-a"\nrate_kbps = 6000\n')
    fields = load(config_class, path, {"connect": None}, {}).link.declared()
    assert (fields.air, fields.rate_bps, fields.frame_s) == ("cell-a", 6e6, 0.0)


def test_a_setting_of_an_earlier_version_says_what_to_do_instead(toml):
    path = toml('[classes]\nweights = "3fa9=2"\n')
    assert "classes is no setting any more: " in refused(CoordinatorConfig, path, {}, {})
    given = {"AIRDRAFT_CLASSES__WEIGHTS": "3fa9=2"}
    found = refused(CoordinatorConfig, None, {}, given)
    assert found.startswith("AIRDRAFT_CLASSES__WEIGHTS is no setting any more: ")
